// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// Kokkos, MPI where mpiexec started us, and Catch2's runner.
#if KOKOMOE_CATCH2_MAJOR >= 3
#include <catch2/catch_session.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif

#include "kokomoe/config.hpp"
#include "support/communicator.hpp"

#include <Kokkos_Core.hpp>

#include <cstdlib>
#include <memory>

#ifdef KOKOMOE_HAVE_MPI
#include "kokomoe/parallel/mpi.hpp"
#endif

namespace {

std::unique_ptr<kokomoe::Communicator> world;

#ifdef KOKOMOE_HAVE_MPI
/// Starting MPI alone costs time and leaves leaks for sanitizers to find: not without mpiexec.
bool started_by_mpiexec() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMIX_RANK"})
    if (std::getenv(name) != nullptr) return true;
  return false;
}
#endif

int run(int argc, char** argv) {
  Kokkos::ScopeGuard kokkos(argc, argv);
  return Catch::Session().run(argc, argv);
}

}  // namespace

const kokomoe::Communicator& kokomoe::test::communicator() {
  return *world;
}

int main(int argc, char** argv) {
#ifdef KOKOMOE_HAVE_MPI
  if (started_by_mpiexec()) {
    int provided = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    world = std::make_unique<kokomoe::Communicator>(kokomoe::make_communicator(MPI_COMM_WORLD));
    const int failed = run(argc, argv) == 0 ? 0 : 1;
    // No rank may leave before all have finished: mpiexec would end the others.
    const auto any_failed = world->all_reduce_max(failed);
    world.reset();
    MPI_Finalize();
    return static_cast<int>(any_failed);
  }
#endif
  world = std::make_unique<kokomoe::Communicator>();
  return run(argc, argv) == 0 ? 0 : 1;
}
