// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/bfloat16.hpp"
#include "kokomoe/core/exact_sum.hpp"
#include "kokomoe/core/types.hpp"
#include "kokomoe/parallel/expert_range.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace kokomoe {

/// How a tensor starts. Element i of a tensor depends on (seed, name, global index i) alone, so a
/// model starts the same whatever the layout. Draws are made in double and rounded to T.
struct Initializer {
  enum class Kind { constant, normal, uniform, given };
  Kind kind = Kind::constant;
  double scale = 0;  ///< the constant, the standard deviation, or the half width
  std::shared_ptr<const std::vector<double>> values{};  ///< all elements of a `given` tensor

  static Initializer constant(double value) { return {Kind::constant, value}; }
  static Initializer normal(double deviation) { return {Kind::normal, deviation}; }
  static Initializer uniform(double half_width) { return {Kind::uniform, half_width}; }
  static Initializer given(std::vector<double> values) {
    return {Kind::given, 0, std::make_shared<const std::vector<double>>(std::move(values))};
  }
};

struct ParameterSpec {
  std::string name;                ///< unique, dotted: "blocks.0.attention.qkv.weight"
  std::vector<std::size_t> shape;  ///< GLOBAL shape; first axis = global expert index if `expert`
  Initializer initializer{};
  bool decay = true;    ///< takes weight decay
  bool expert = false;  ///< sharded by first axis over the expert group
  bool state = false;   ///< kept and saved, but not trained (moving averages, biases, lambdas)
  /// What each axis counts, for who reads the files: {"expert", "hidden", "channel"}. May be empty.
  std::vector<std::string> axes{};
  bool rounded = false;  ///< there is a copy in bfloat16, for products to read: see round_values
};

/// A tensor's place in its store. Cheap to copy; valid for the store that gave it.
struct ParameterHandle {
  int index = -1;
  bool valid() const { return index >= 0; }
};

/// All tensors of a model as named slices of a few flat buffers: value, gradient and two moments.
/// Life: add(...), freeze(...), scale_rate(...), allocate(...), then use. Replicated and expert
/// slices lie in separate buffers; inside a buffer trained slices with weight decay come first,
/// then trained ones without, both by rate, then frozen ones, so that few optimizer kernels serve
/// them all. The first gradient write of an update overwrites, later ones add: see gradient_beta.
/// After sum_exactly, gradients are summed in limbs beside the gradient buffer: layers write to
/// exact_gradient, and round_gradients makes the gradient of them.
template <class T>
class ParameterStore {
 public:
  enum class Group { replicated, expert, state };

  /// Neighbouring trained slices that an optimizer treats alike: elements [begin, end).
  struct Range {
    std::size_t begin = 0;
    std::size_t end = 0;
    bool decay = true;  ///< takes weight decay
    double rate = 1;    ///< times the learning rate
  };

  /// Flat views over one group; `trained` is a prefix length in elements, cut into `ranges`.
  struct Buffer {
    Vector<T> value, gradient, moment1, moment2;
    Vector<std::int64_t> high, low;  ///< exact sums of the gradient; empty unless asked for
    Vector<Bfloat16> rounded;        ///< of the tensors that have such a copy
    std::vector<Range> ranges;
    std::size_t trained = 0;
  };

  struct Entry {
    ParameterSpec spec;
    Group group = Group::replicated;
    bool frozen = false;
    double rate = 1;                       ///< times the learning rate
    std::vector<std::size_t> local_shape;  ///< what this rank holds
    std::size_t offset = 0;                ///< in elements, into the group's buffer
    std::size_t rounded_offset = 0;        ///< likewise, into the rounded values
    std::size_t size = 0;                  ///< local elements
    bool gradient_written = false;
  };

  /// `expert_rank` of `expert_ranks`: this rank's place in its expert group.
  explicit ParameterStore(int expert_rank = 0, int expert_ranks = 1);

  /// Registers a tensor; before allocate. Throws on a duplicate name.
  ParameterHandle add(ParameterSpec spec);
  /// Freezes every tensor whose name matches a glob ('*' any run of characters); before allocate.
  /// Returns how many matched.
  int freeze(const std::string& pattern);
  /// Multiplies the learning rate of every tensor whose name matches by a positive factor; before
  /// allocate. Returns how many matched. Throws Error for another factor.
  int scale_rate(const std::string& pattern, double factor);
  /// Asks for exact sums of gradients (see exact_sum::Sums); before allocate. 16 bytes an element.
  void sum_exactly();
  bool sums_exactly() const { return exact_; }
  /// Lays out and initialises everything.
  void allocate(const ExecutionSpace& space, std::uint64_t seed);
  bool allocated() const { return allocated_; }

  /// All accessors throw Error before allocate and for handles that no add gave.
  /// Local values: last axis = columns, all others folded into rows (a vector is one row).
  Matrix<T> value(ParameterHandle handle) const;
  /// Values of local expert e as (shape[1], shape[2]); a 2-axis tensor gives one row.
  Matrix<T> expert_value(ParameterHandle handle, int local_expert) const;
  Vector<T> value_vector(ParameterHandle handle) const;
  /// The values in bfloat16, as of the last round_values, in the shape of `value`. Throws Error for
  /// a tensor without such a copy.
  Matrix<const Bfloat16> rounded_value(ParameterHandle handle) const;
  /// Makes the copies in bfloat16 anew. allocate, optimizer steps and load_checkpoint do; so must
  /// whoever else writes values.
  void round_values(const ExecutionSpace& space);
  Matrix<T> gradient(ParameterHandle handle) const;
  Matrix<T> expert_gradient(ParameterHandle handle, int local_expert) const;
  Vector<T> gradient_vector(ParameterHandle handle) const;

  /// 0 for the first write of this update (so the writer overwrites), 1 afterwards. Marks the
  /// slice as written: call it once for each backward through the owner, and write all of it.
  /// Throws Error in a store that sums exactly: a layer that writes plain sums would spoil it.
  T gradient_beta(ParameterHandle handle);
  /// The same for exact sums: true when this write adds to what is there.
  bool adds_exactly(ParameterHandle handle);
  /// Exact sums in the shape of `gradient`. Throws Error unless the store sums exactly.
  exact_sum::Sums exact_gradient(ParameterHandle handle) const;
  /// (tensors) parts that did not fit into an exact sum, to be added up over ranks like the limbs.
  const Vector<std::int64_t>& outside() const { return outside_; }
  /// Rounds exact sums into the gradients, NaN for tensors with a part that did not fit.
  void round_gradients(const ExecutionSpace& space);
  /// Starts an update: every gradient counts as not written.
  void begin_update();
  /// Ends accumulation: zeroes trained slices that nobody wrote.
  void finish_gradients(const ExecutionSpace& space);

  ExpertRange experts(int total) const { return owned_experts(total, expert_rank_, expert_ranks_); }
  int expert_rank() const { return expert_rank_; }
  int expert_ranks() const { return expert_ranks_; }

  Buffer& buffer(Group group) { return buffers_[static_cast<int>(group)]; }
  const Buffer& buffer(Group group) const { return buffers_[static_cast<int>(group)]; }
  const std::vector<Entry>& entries() const { return entries_; }
  const Entry& entry(ParameterHandle handle) const { return entries_[handle.index]; }
  /// Handle of `name`; invalid when there is none.
  ParameterHandle find(const std::string& name) const;

  std::size_t parameters() const;  ///< global trained and frozen elements
  std::size_t bytes() const;       ///< held by this rank

 private:
  std::vector<Entry*> matching(const std::string& pattern, const char* caller);
  void lay_out();
  void require_usable(ParameterHandle handle) const;
  Matrix<T> as_matrix(const Vector<T>& flat, const Entry& entry) const;
  Matrix<T> as_expert(const Vector<T>& flat, const Entry& entry, int local_expert) const;

  int expert_rank_;
  int expert_ranks_;
  bool allocated_ = false;
  bool exact_ = false;
  std::vector<Entry> entries_;
  Vector<std::int64_t> outside_;
  Buffer buffers_[3];
};

}  // namespace kokomoe
