// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/core/kept_rows.hpp"
#include "kokomoe/core/picked_rows.hpp"
#include "kokomoe/moe/activation.hpp"
#include "kokomoe/moe/expert_kernels.hpp"
#include "kokomoe/moe/grouped_products.hpp"
#include "kokomoe/parameters/parameter_store.hpp"

#include <span>
#include <string>

namespace kokomoe {

namespace detail {
template <class T>
struct ExpertWeights;
}

/// See Experts::sums_factor.
bool sums_factor(ExpertKernels kernels, bool layout_free);
/// Numbers of scratch that d_factor takes, for `experts` of one part.
double factor_gradient_parts(int experts, int d_model, int d_hidden);

struct ExpertsConfig {
  int experts = 1;   ///< E, over all ranks
  int d_model = 0;   ///< d
  int d_hidden = 0;  ///< h
  Activation activation = Activation::relu;
  bool bias = false;
  bool sharded = true;      ///< distributed over the expert group; a dense feed-forward is not
  double output_scale = 1;  ///< multiplies the deviation of w2's initial values
  ExpertKernels kernels = ExpertKernels::automatic;
  bool round_weights = false;  ///< see MoeConfig
};

/// Two-matrix feed-forward networks, one for each group of rows:
///   E_e(x) = act(x W1_e^T + b1_e) W2_e^T + b2_e.
/// Tensors NAME.w1 (E, h or 2h, d), NAME.b1, NAME.w2 (E, d, h), NAME.b2; initial weights are
/// normal with deviation 1/sqrt(inputs), biases zero.
template <class T>
class Experts {
 public:
  struct Saved {
    PickedRows<T> rows;  ///< (n, d) the input rows, sorted by expert; not copied
    KeptRows<T> hidden;  ///< (n, h or 2h) the hidden layer before its activation
    RowArithmetic how;   ///< segments: needed by backward alone

    /// Forward's input, in other memory: before backward where it was not kept.
    void set_input(const Matrix<const T>& x) { rows.from = x; }
  };

  Experts(const ExpertsConfig& config, ParameterStore<T>& store, const std::string& name);

  /// `rows` (n, d) sorted by local expert, group e at [offsets[e], offsets[e+1]); `expert_of_row`
  /// (n), empty when there is one expert; `out` (n, d). Takes `hidden` from `saved_arena`; `rows`
  /// must stay until backward.
  void forward(const ExecutionSpace& space, Arena& saved_arena, Arena& scratch,
               const PickedRows<T>& rows, std::span<const int> offsets,
               const Vector<const int>& expert_of_row, const Matrix<T>& out, Saved& saved,
               const RowArithmetic& how = {}) const;

  /// d_out (n, d) is the gradient of the loss by each row's WEIGHTED output; row_weight (n) the
  /// weight that the expert's gradient takes (empty = 1). Writes d_rows (n, d) and, unless it is
  /// empty, d_row_weight (n) = <d_out, E(x)>. Parameter gradients go to the store. Unless it is
  /// empty, adds to d_factor (d) the gradient by d_out.factor: the sum over rows of
  /// row_weight d_out.from E(x). Throws Error where sums_factor says no.
  void backward(const ExecutionSpace& space, Arena& scratch, const Saved& saved,
                std::span<const int> offsets, const Vector<const int>& expert_of_row,
                const PickedRows<T>& d_out, const Vector<const T>& row_weight,
                const Matrix<T>& d_rows, const Vector<T>& d_row_weight,
                const Vector<T>& d_factor = {}) const;

  /// Whether backward can give d_factor, which spares its caller to keep the experts' outputs: the
  /// sum over rows is <W2, the sum over rows of row_weight d_out.from act^T>, whose second part is
  /// W2's gradient but for the factor.
  bool sums_factor(bool layout_free) const {
    return kokomoe::sums_factor(config_.kernels, layout_free);
  }

  /// The same for local experts [first, end) alone, so that rows may arrive in parts: `begin` once,
  /// then every expert in one part. All views hold all rows; a part touches those of its experts.
  struct Part {
    int first = 0;
    int end = 0;
  };
  void begin(Arena& saved_arena, const PickedRows<T>& rows, const RowArithmetic& how,
             Saved& saved) const;
  void forward_part(const ExecutionSpace& space, Arena& scratch, Part part,
                    std::span<const int> offsets, const Vector<const int>& expert_of_row,
                    const Matrix<T>& out, const Saved& saved) const;
  /// Whether gradients add to what this update has written already.
  struct Writes {
    bool w1 = false, b1 = false, w2 = false, b2 = false;
  };
  Writes begin_backward() const;
  void backward_part(const ExecutionSpace& space, Arena& scratch, Part part, const Writes& adds,
                     const Saved& saved, std::span<const int> offsets,
                     const Vector<const int>& expert_of_row, const PickedRows<T>& d_out,
                     const Vector<const T>& row_weight, const Matrix<T>& d_rows,
                     const Vector<T>& d_row_weight, const Vector<T>& d_factor = {}) const;

  const ExpertsConfig& config() const { return config_; }

 private:
  detail::ExpertWeights<T> weights(std::size_t local, Part part) const;

  ExpertsConfig config_;
  ParameterStore<T>* store_;
  ParameterHandle w1_, b1_, w2_, b2_;
};

}  // namespace kokomoe
