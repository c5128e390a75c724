// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace kokomoe {

/// True when the MPI library says, at run time, that it reads and writes device memory.
bool mpi_reads_device_memory();

}  // namespace kokomoe
