// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "command.hpp"
#include "process_start.hpp"

#include "kokomoe/config.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/gemm.hpp"
#ifdef KOKOMOE_HAVE_MPI
#include "kokomoe/parallel/mpi.hpp"
#endif

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string_view>
#include <thread>
#include <vector>

namespace kokomoe::app {

void require_json(const std::string& path) {
  if (path.empty() || path == "-") return;
  const bool there = std::filesystem::exists(path);
  {
    const std::ofstream file(path, std::ios::app);
    if (!file) throw InputError("--json: \"" + path + "\" cannot be written");
  }
  std::error_code ignored;
  if (!there) std::filesystem::remove(path, ignored);
}

void write_json(const std::string& path, const nlohmann::json& value) {
  if (path.empty()) return;
  if (path == "-") {
    std::cout << value.dump(2) << std::endl;
    return;
  }
  std::ofstream file(path);
  file << value.dump(2) << '\n';
  file.flush();
  if (!file) throw InputError("\"" + path + "\" cannot be written");
}

namespace {

/// Runs the action; prints what goes wrong, once, and turns it into an exit code.
int run(const Action& action, const Communicator& communicator) {
  const auto report = [&](const char* what) {
    // Every rank meets most errors: the root speaks first, and usually ends the job by that.
    if (!communicator.is_root()) std::this_thread::sleep_for(std::chrono::seconds(1));
    std::cout.flush();
    // In one piece: mpirun puts its own words about the end between two.
    const std::string rank =
        communicator.is_root() ? "" : " (rank " + std::to_string(communicator.rank()) + ")";
    std::cerr << "kokomoe" + rank + ": " + what + "\n" << std::flush;
  };
  try {
    return action(communicator);
  } catch (const InputError& error) {
    report(error.what());
    return bad_input;
  } catch (const std::exception& error) {
    report(error.what());
    return failed;
  } catch (...) {
    report("an error without a message");
    return failed;
  }
}

/// The error of a word that stands where a subcommand should, or "". Options come after it.
std::string unknown_subcommand(const CLI::App& program, const std::vector<std::string>& arguments) {
  const CLI::App* command = &program;
  for (const std::string& word : arguments) {
    const auto known = command->get_subcommands([](const CLI::App*) { return true; });
    if (known.empty() || word.starts_with("-")) return "";
    std::vector<std::string> names;
    const CLI::App* next = nullptr;
    for (const CLI::App* candidate : known) {
      names.push_back(candidate->get_name());
      if (candidate->get_name() == word) next = candidate;
    }
    if (next == nullptr) {
      std::string text = "unknown subcommand \"" + word + "\" of " + command->get_name();
      const std::string nearest = nearest_name(word, names);
      if (!nearest.empty()) return text + ": did you mean \"" + nearest + "\"?";
      text += ": there is";
      for (const std::string& name : names) text += (name == names[0] ? " " : ", ") + name;
      return text;
    }
    command = next;
  }
  return "";
}

int run_all(const std::vector<std::string>& arguments, const Communicator& communicator) {
  // 1. Options.
  CLI::App program("Trains, evaluates and studies Mixture-of-Experts models from input decks.",
                   "kokomoe");
  program.footer(
      "Examples:\n"
      "  kokomoe train -i inputs/lm/quickstart.toml -d runs/first\n"
      "  kokomoe train -i inputs/lm/quickstart.toml -d runs/switch moe/router=switch\n"
      "  kokomoe train -d runs/first -r last -t 01:30:00\n"
      "  kokomoe eval -r runs/first --json -\n"
      "  kokomoe plan -i inputs/lm/quickstart.toml --ranks 4\n"
      "  kokomoe generate -r runs/first --prompt 'And God said'\n"
      "  kokomoe report runs/first runs/switch -o both.html\n"
      "Kokkos' options (--kokkos-num-threads=2, --kokkos-help, ...) may stand anywhere.\n"
      "Exit codes: 0 done, 1 failed, 2 bad usage, deck, data or checkpoint, 75 stopped early "
      "after\n"
      "saving (run again with -r last), 143 a second SIGTERM.");
  program.set_version_flag("--version", std::string(KOKOMOE_VERSION));
  program.require_subcommand(1);
  Action action;
  add_train(program, action);
  add_average(program, action);
  add_eval(program, action);
  add_generate(program, action);
  add_inspect(program, action);
  add_translate(program, action);
  add_predict(program, action);
  add_study(program, action);
  add_score(program, action);
  add_validate(program, action);
  add_plan(program, action);
  add_routers(program, action);
  add_fidelity(program, action);
  add_bench(program, action);
  add_report(program, action);

  if (const std::string error = unknown_subcommand(program, arguments); !error.empty()) {
    if (communicator.is_root()) std::cerr << "kokomoe: " << error << std::endl;
    return bad_input;
  }
  try {
    program.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));  // last first
  } catch (const CLI::ParseError& error) {
    if (!communicator.is_root()) return error.get_exit_code() == 0 ? done : bad_input;
    return program.exit(error) == 0 ? done : bad_input;
  }

  // 2. Work.
  configure_blas();
  return run(action, communicator);
}

}  // namespace
}  // namespace kokomoe::app

int main(int argc, char** argv) {
  kokomoe::app::start_with_fast_blas(argv);  // may start over
  // A limit on file sizes becomes an error that names the file.
  std::signal(SIGXFSZ, SIG_IGN);
#ifdef KOKOMOE_HAVE_MPI
  MPI_Init(&argc, &argv);
#endif
  // Kokkos answers to --help and others of ours too: it gets those that carry its name.
  std::vector<std::string> arguments;
  std::vector<char*> for_kokkos = {argv[0]};
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]).starts_with("--kokkos-"))
      for_kokkos.push_back(argv[i]);
    else
      arguments.emplace_back(argv[i]);
  }
  int kokkos_count = static_cast<int>(for_kokkos.size());
  for_kokkos.push_back(nullptr);
#ifndef KOKKOS_ENABLE_OPENMP
  kokomoe::app::undo_openmp_binding();
#endif
  Kokkos::initialize(kokkos_count, for_kokkos.data());
  int code = 0;
  {
#ifdef KOKOMOE_HAVE_MPI
    const kokomoe::Communicator communicator = kokomoe::make_communicator(MPI_COMM_WORLD);
#else
    const kokomoe::Communicator communicator;
#endif
    code = kokomoe::app::run_all(arguments, communicator);
#ifdef KOKOMOE_HAVE_MPI
    // An error may be one rank's alone, with the others waiting for it: end them all.
    if (communicator.size() > 1 &&
        (code == kokomoe::app::failed || code == kokomoe::app::bad_input))
      MPI_Abort(MPI_COMM_WORLD, code);
#endif
  }
  Kokkos::finalize();
#ifdef KOKOMOE_HAVE_MPI
  MPI_Finalize();
#endif
  return code;
}
