// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "checkpoint_fixture.hpp"
#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "support/temporary_folder.hpp"
#include "support/unprivileged.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <sstream>
#include <thread>
#include <type_traits>

using namespace kokomoe;
using namespace kokomoe::test;

TEMPLATE_TEST_CASE("a checkpoint gives back every bit", "[checkpoint]", float, double) {
  const TemporaryFolder run;
  const std::string folder = run / "checkpoints";
  auto store = make_store<TestType>(3);
  CheckpointMeta meta = make_meta(7);
  meta.numbers["nan"] = std::numeric_limits<double>::quiet_NaN();
  meta.numbers["inf"] = -std::numeric_limits<double>::infinity();
  CHECK_FALSE(has_checkpoint(run.path()));
  save_checkpoint(folder, *store, meta, Communicator(), true, 2);
  CHECK(has_checkpoint(run.path()));
  CHECK(read_text(folder + "/latest") == "step_7\n");
  CHECK(read_text(folder + "/best") == "step_7\n");
  CHECK_FALSE(std::filesystem::exists(folder + "/step_7.tmp"));

  auto other = make_store<TestType>(4);
  REQUIRE(bits_of(*other) != bits_of(*store));
  const CheckpointMeta found =
      load_checkpoint(resolve_checkpoint(run.path()), *other, Communicator());
  CHECK(bits_of(*other) == bits_of(*store));
  CHECK(found.step == 7);
  CHECK(found.deck == meta.deck);
  CHECK(found.counters == meta.counters);
  CHECK(found.numbers.at("best") == 1.0 / 3);
  CHECK(std::isnan(found.numbers.at("nan")));
  CHECK(found.numbers.at("inf") == meta.numbers["inf"]);
  CHECK(read_manifest(folder + "/step_7/").step == 7);

  // Without moments they stay.
  auto third = make_store<TestType>(5);
  const auto moments = third->buffer(ParameterStore<TestType>::Group::expert).moment1;
  load_checkpoint(folder + "/step_7", *third, Communicator(), false);
  CHECK(Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), moments)(0) == TestType(1.25));
  CHECK(third->buffer(ParameterStore<TestType>::Group::expert).value(0) ==
        store->buffer(ParameterStore<TestType>::Group::expert).value(0));
}

TEST_CASE("equal states give equal files", "[checkpoint]") {
  const TemporaryFolder folder;
  save(folder / "a", *make_store<float>(1), 2);
  // Times in files count seconds.
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  save(folder / "b", *make_store<float>(1), 2);
  CHECK(read_text(folder / "a/step_2/state.h5") == read_text(folder / "b/step_2/state.h5"));
  CHECK(read_text(folder / "a/step_2/manifest.json") ==
        read_text(folder / "b/step_2/manifest.json"));
}

TEST_CASE("inspect and compare tell tensors apart", "[checkpoint]") {
  const TemporaryFolder folder;
  auto store = make_store<float>(1);
  save(folder / "c", *store, 1);
  const auto handle = store->find("blocks.0.moe.experts.bias");
  const Vector<float> bias = store->value_vector(handle);
  Kokkos::deep_copy(Kokkos::subview(bias, 5), 10.0f);
  save(folder / "c", *store, 2);

  const auto tensors = inspect_checkpoint(folder / "c/step_1");
  // 6 parameters, 5 trained ones with two moments each, 1 state.
  REQUIRE(tensors.size() == 17);
  CHECK(std::is_sorted(tensors.begin(), tensors.end(),
                       [](const auto& a, const auto& b) { return a.name < b.name; }));
  const auto named = [&](const std::string& name) {
    for (const auto& tensor : tensors)
      if (tensor.name == name) return tensor;
    FAIL("no " << name);
    return TensorInfo();
  };
  const TensorInfo expert = named("parameters/blocks.0.moe.experts.first.weight");
  CHECK(expert.shape == std::vector<std::size_t>{3, 5, 4});
  CHECK(expert.dtype == "float32");
  CHECK(expert.digest.size() == 16);
  CHECK(expert.rms > 0);
  CHECK(named("router_state/blocks.0.moe.router.average").shape == std::vector<std::size_t>{3});
  CHECK(named("optimizer/m/embedding.weight").rms == test::Approx(0.25));
  CHECK(named("optimizer/v/embedding.weight").dtype == "float32");

  const auto differences = compare_checkpoints(folder / "c/step_1", folder / "c/step_2");
  REQUIRE(differences.size() == 17);
  for (const auto& d : differences) {
    INFO(d.name);
    CHECK(d.equal == (d.name != "parameters/blocks.0.moe.experts.bias"));
    if (!d.equal) {
      CHECK(d.max_abs_difference > 1);
    } else {
      CHECK(d.max_abs_difference == 0);
    }
  }
  save(folder / "d", *make_store<float>(1, 6), 1);
  for (const auto& d : compare_checkpoints(folder / "c/step_1", folder / "d/step_1"))
    if (d.name == "parameters/embedding.weight") CHECK(d.note == "shapes (11, 5) and (11, 6)");
}

TEST_CASE("another model's checkpoint is refused by tensor, with both shapes", "[checkpoint]") {
  const TemporaryFolder folder;
  save(folder.path(), *make_store<float>(1), 1);
  const auto load = [&](auto& store) {
    return message_of<InputError>(
        [&] { load_checkpoint(folder / "step_1", store, Communicator()); });
  };
  auto wide = make_store<float>(1, 6);
  const std::string before = bits_of(*wide);
  const std::string shapes = load(*wide);
  CHECK_THAT(shapes, contains("step_1/state.h5: error: /parameters/embedding.weight: has shape "
                              "(11, 5), but the deck's model has (11, 6)"));
  CHECK(bits_of(*wide) == before);
  auto twice = make_store<double>(1);
  CHECK_THAT(load(*twice), contains("is float32, but the model is float64"));

  ParameterStore<float> more;
  const auto model = make_store<float>(1);
  for (const auto& entry : model->entries()) more.add(entry.spec);
  ParameterSpec extra;
  extra.name = "embedding.weights";
  extra.shape = {2};
  more.add(extra);
  more.freeze("frozen.*");
  more.allocate(ExecutionSpace(), 1);
  CHECK_THAT(load(more), contains("/parameters/embedding.weights: is not in the file"));
  ParameterStore<float> fewer;
  ParameterSpec only;
  only.name = "embedding.weight";
  only.shape = {11, 5};
  fewer.add(only);
  fewer.allocate(ExecutionSpace(), 1);
  CHECK_THAT(load(fewer), contains("is in the file, but the deck's model has no such tensor"));
}

TEST_CASE("resolve names what it finds, or says what is missing", "[checkpoint]") {
  const TemporaryFolder run;
  const std::string folder = run / "checkpoints";
  auto store = make_store<float>(1);
  save(folder, *store, 4, true, 5);
  save(folder, *store, 10, false, 5);
  CHECK(resolve_checkpoint(run.path()) == folder + "/step_10");
  CHECK(resolve_checkpoint(run.path() + "/") == folder + "/step_10");
  CHECK(resolve_checkpoint(folder) == folder + "/step_10");
  CHECK(resolve_checkpoint(folder + "/best") == folder + "/step_4");
  CHECK(resolve_checkpoint(folder + "/step_4/") == folder + "/step_4");
  const auto error = [](const std::string& path) {
    return message_of<InputError>([&] { resolve_checkpoint(path); });
  };
  CHECK_THAT(error(run / "nothing"), contains("run or checkpoint not found"));
  std::filesystem::create_directory(run / "empty");
  CHECK_THAT(error(run / "empty"), contains("no checkpoint here"));
  write_text(folder + "/latest", "step_11\n");
  const std::string instead = "; there is step_10, step_4: use -r " + folder + "/step_10";
  CHECK(error(run.path()) ==
        folder + "/latest: error: names step_11, which is not there" + instead);
  write_text(folder + "/latest", "../../etc\n");
  CHECK(error(run.path()) == folder + "/latest: error: does not name a checkpoint" + instead);
  write_text(folder + "/latest", "");
  CHECK(error(run.path()) == folder + "/latest: error: is empty" + instead);
  std::filesystem::remove(folder + "/latest");
  CHECK(resolve_checkpoint(run.path()) == folder + "/step_10");
}

TEST_CASE("checkpoints that cannot be read are not taken for none", "[checkpoint]") {
  const TemporaryFolder run;
  namespace fs = std::filesystem;
  const std::string folder = run / "checkpoints";
  const auto refusal = [&] {
    const std::string message = message_of<InputError>([&] { has_checkpoint(run.path()); });
    CHECK(message_of<InputError>([&] { resolve_checkpoint(run.path()); }) == message);
    return message;
  };
  write_text(folder, "");
  CHECK(refusal() == folder + ": error: cannot be read: Not a directory");
  fs::remove(folder);
  save(folder, *make_store<float>(1), 4);
  const fs::perms before = fs::status(folder).permissions();
  // Without names, and with names that lead nowhere.
  for (const fs::perms perms : {fs::perms::none, fs::perms(0444)}) {
    fs::permissions(folder, perms);
    const Unprivileged nobody;
    if (nobody.holds()) CHECK_THAT(refusal(), contains("cannot be read: Permission denied"));
  }
  fs::permissions(folder, before);
  CHECK(has_checkpoint(run.path()));
}

TEST_CASE("pruning keeps the newest, the best and the latest", "[checkpoint]") {
  const TemporaryFolder folder;
  auto store = make_store<float>(1);
  const auto steps = [&] {
    std::vector<int> found;
    for (int step = 0; step < 100; ++step)
      if (std::filesystem::exists(folder / ("step_" + std::to_string(step)))) found.push_back(step);
    return found;
  };
  save(folder.path(), *store, 1, true, 0);
  save(folder.path(), *store, 2, false, 0);
  save(folder.path(), *store, 3, false, 0);
  CHECK(steps() == std::vector<int>{1, 2, 3});  // two, and the best
  save(folder.path(), *store, 4, true, 3);
  CHECK(steps() == std::vector<int>{2, 3, 4});
  save(folder.path(), *store, 12, false, 3);
  CHECK(steps() == std::vector<int>{3, 4, 12});
  // Back to an earlier step: what came later is given up first.
  save(folder.path(), *store, 5, false, 3);
  CHECK(steps() == std::vector<int>{3, 4, 5});
  CHECK(read_text(folder / "latest") == "step_5\n");
  // The same step again replaces it.
  auto other = make_store<float>(2);
  save(folder.path(), *other, 5, false, 3);
  CHECK(steps() == std::vector<int>{3, 4, 5});
  auto loaded = make_store<float>(3);
  load_checkpoint(folder / "step_5", *loaded, Communicator());
  CHECK(bits_of(*loaded) == bits_of(*other));
}

TEST_CASE("an exported tensor gives back every bit", "[checkpoint]") {
  const TemporaryFolder folder;
  const auto check = [&](auto store, const char* dtype) {
    using T = typename std::decay_t<decltype(store->buffer({}).value)>::value_type;
    const Vector<T> values = store->value_vector(store->find("blocks.0.moe.experts.first.weight"));
    // Numbers that need all their digits, and those that are none.
    values(0) = std::nextafter(T(1), T(2));
    values(1) = std::numeric_limits<T>::denorm_min();
    values(2) = -std::numeric_limits<T>::infinity();
    save(folder / dtype, *store, 1);
    std::ostringstream text;
    export_tensor(folder / dtype + "/step_1", "blocks.0.moe.experts.first.weight", text);
    std::istringstream lines(text.str());
    std::string line, word;
    std::getline(lines, line);
    CHECK(line ==
          std::string("# parameters/blocks.0.moe.experts.first.weight shape=3,5,4 dtype=") + dtype);
    std::size_t next = 0;
    for (int row = 0; row < 15; ++row) {
      REQUIRE(std::getline(lines, line));
      std::istringstream words(line);
      for (int column = 0; column < 4; ++column) {
        REQUIRE(words >> word);
        const T value = static_cast<T>(std::strtod(word.c_str(), nullptr));
        CHECK(value == values(next++));
      }
      CHECK_FALSE(words >> word);
    }
    CHECK_FALSE(std::getline(lines, line));
    std::ostringstream moment;
    export_tensor(folder / dtype + "/step_1", "optimizer/m/blocks.0.norm.gain", moment);
    CHECK(moment.str() == std::string("# optimizer/m/blocks.0.norm.gain shape=5 dtype=") + dtype +
                              "\n0.25 0.25 0.25 0.25 0.25\n");
  };
  check(make_store<float>(1), "float32");
  check(make_store<double>(1), "float64");
  std::ostringstream none;
  CHECK_THAT(message_of<InputError>(
                 [&] { export_tensor(folder / "float32/step_1", "blocks.0.norm.gains", none); }),
             contains("state.h5: error: has no tensor \"blocks.0.norm.gains\"; did you mean "
                      "parameters/blocks.0.norm.gain?"));
  CHECK(none.str().empty());
}

TEST_CASE("h5py and h5dump show a tidy file", "[checkpoint]") {
  const TemporaryFolder folder;
  auto store = make_store<double>(1);
  save(folder.path(), *store, 3);
  double sum = 0;
  const auto values = Kokkos::create_mirror_view_and_copy(
      Kokkos::HostSpace(), store->value_vector(store->find("blocks.0.moe.experts.first.weight")));
  for (std::size_t i = 0; i < values.size(); ++i) sum += values(i);
  write_text(folder / "read.py",
             "import sys\n"
             "import h5py\n"
             "f = h5py.File(sys.argv[1], 'r')\n"
             "assert f.attrs['step'] == 3 and f.attrs['format_version'] == 1\n"
             "assert set(f) == {'parameters', 'optimizer', 'router_state', 'digests', 'counters'}\n"
             "assert dict(f['counters'].attrs) == {'tokens': 1 << 60}\n"
             "w = f['parameters/blocks.0.moe.experts.first.weight']\n"
             "assert w.shape == (3, 5, 4) and w.dtype == 'f8' and w.chunks is None\n"
             "assert list(w.attrs['dimensions']) == [b'expert', b'hidden', b'channel']\n"
             "assert w.attrs['units'] == b'1'\n"
             "assert abs(w[...].sum() - float(sys.argv[2])) < 1e-12\n"
             "b = f['optimizer/m/blocks.0.moe.experts.bias']\n"
             "assert list(b.attrs['dimensions']) == [b'expert', b'axis_1']\n"
             "assert b.attrs['units'] == b'loss'\n"
             "assert f['optimizer/v/embedding.weight'].attrs['units'] == b'loss^2'\n"
             "assert f['optimizer/m/embedding.weight'].shape == (11, 5)\n"
             "assert f['router_state/blocks.0.moe.router.average'].shape == (3,)\n"
             "assert f['digests/parameters/embedding.weight'].dtype == 'u8'\n"
             "def named(name, item):\n"
             "    if isinstance(item, h5py.Dataset):\n"
             "        assert len(item.attrs['dimensions']) == item.ndim, name\n"
             "        assert item.attrs['units'], name\n"
             "f.visititems(named)\n");
  char text[40];
  std::snprintf(text, sizeof text, "%.17g", sum);
  const auto run = [](const std::string& command) { return std::system(command.c_str()); };
  // Debian's h5py belongs to /usr/bin/python3, which another Python may shadow.
  const bool has_h5py = run("/usr/bin/python3 -c 'import h5py' 2>/dev/null") == 0;
  if (has_h5py)
    CHECK(run("/usr/bin/python3 " + (folder / "read.py ") + (folder / "step_3/state.h5 ") + text) ==
          0);
  const bool has_h5dump = run("command -v h5dump >/dev/null") == 0;
  if (has_h5dump) {
    REQUIRE(run("h5dump -A " + (folder / "step_3/state.h5") + " >" + (folder / "dump")) == 0);
    const std::string dump = read_text(folder / "dump");
    CHECK_THAT(dump, contains("(0): \"expert\", \"hidden\", \"channel\""));
    CHECK_THAT(dump, contains("H5T_IEEE_F64LE"));
  }
  if (!has_h5py && !has_h5dump) WARN("neither h5py nor h5dump here: nothing looked at the file");
}

TEST_CASE("a save that cannot be written leaves the old and says why", "[checkpoint]") {
  const TemporaryFolder run;
  auto store = make_store<float>(1);
  write_text(run / "file", "");
  CHECK_THAT(message_of<Error>([&] { save(run / "file", *store, 1); }),
             contains("cannot save checkpoint: "));
}
