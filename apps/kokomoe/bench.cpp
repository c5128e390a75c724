// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "command.hpp"

namespace kokomoe::app {

void add_bench(CLI::App& program, Action& action) {
  CLI::App* bench = program.add_subcommand("bench", "measure this machine and this build");
  bench->require_subcommand(1);
  add_bench_gemm(*bench, action);
  add_bench_layer(*bench, action);
  add_bench_step(*bench, action);
  add_bench_exchange(*bench, action);
}

}  // namespace kokomoe::app
