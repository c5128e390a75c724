// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/config.hpp"

#ifndef KOKOMOE_HAVE_MPI
#error "this Kokomoe was built without MPI: reconfigure with -DKOKOMOE_ENABLE_MPI=ON"
#endif

#include "kokomoe/parallel/communicator.hpp"

#include <mpi.h>

namespace kokomoe {

/// A Communicator over a duplicate of `comm` (so that messages never mix with the caller's),
/// freed with the last copy. MPI must be initialised and outlive it.
Communicator make_communicator(MPI_Comm comm);

/// The MPI communicator behind `communicator`; MPI_COMM_SELF's duplicate or MPI_COMM_NULL for one
/// rank without MPI.
MPI_Comm mpi_comm(const Communicator& communicator);

}  // namespace kokomoe
