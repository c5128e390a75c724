// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/clear.hpp"
#include "kokomoe/nn/dropout.hpp"
#include "kokomoe/nn/norm.hpp"

#include <string>

namespace kokomoe {

struct ResidualConfig {
  NormKind norm = NormKind::rms;
  bool post_norm =
      false;           ///< norm after the sum, as in the first Transformer; else before the branch
  double dropout = 0;  ///< on what the branch gives
  int layer = 0, lane = 0;  ///< count in the random numbers
};

/// One branch of a transformer block and the sum with what goes past it:
///   pre-norm   y = x + dropout(branch(norm(x)))
///   post-norm  y = norm(x + dropout(branch(x)))
/// Tensors NAME.weight and, of a layer norm, NAME.bias.
template <class T>
class Residual {
 public:
  using Saved = typename Norm<T>::Saved;

  Residual(const ResidualConfig& config, int d_model, ParameterStore<T>& store,
           const std::string& name)
      : config_(config), norm_(config.norm, d_model, store, name) {}

  /// x (T, d) -> y (T, d), not the same memory; both must stay until backward. Calls
  /// branch(in, out) once, (T, d) each; `out` is scratch, and so is `in` where computes_again.
  template <class Branch>
  void forward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y, Saved& saved,
               const Branch& branch) const {
    ArenaScope all(*ctx.scratch);
    Arena& arena = computes_again(ctx) ? *ctx.scratch : *ctx.saved;
    const Matrix<T> beside = arena.template matrix<T>(x.extent(0), x.extent(1));
    if (!config_.post_norm) norm_.forward(ctx, x, beside, saved);
    const Matrix<T> sum = config_.post_norm ? beside : y;
    {
      ArenaScope scope(*ctx.scratch);
      const Matrix<T> out = ctx.scratch->template matrix<T>(x.extent(0), x.extent(1));
      branch(config_.post_norm ? x : Matrix<const T>(beside), out);
      Kokkos::deep_copy(ctx.space, sum, x);
      dropout<T>(ctx, config_.dropout, config_.layer, config_.lane, out, sum, true);
    }
    if (config_.post_norm) norm_.forward(ctx, beside, y, saved);
  }

  /// Whether the branch's input, the norm's result, is computed again in backward instead of kept.
  bool computes_again(const StepContext& ctx) const { return ctx.round_kept && !config_.post_norm; }

  /// dx (T, d): on entry dL/dy, on return dL/dx. Calls branch(in, d_out, d_in) once, which WRITES
  /// d_in; `in`: forward's where computes_again, else a view without memory.
  template <class Branch>
  void backward(const StepContext& ctx, const Saved& saved, const Matrix<T>& dx,
                const Branch& branch) const {
    ArenaScope scope(*ctx.scratch);
    const auto rows = [&] { return ctx.scratch->template matrix<T>(dx.extent(0), dx.extent(1)); };
    const bool drops = config_.dropout > 0 && ctx.training;
    const Matrix<T> dropped = drops ? rows() : Matrix<T>();
    const Matrix<T> d_in = rows();
    if (config_.post_norm) {
      const Matrix<T> d_sum = rows();
      clear(ctx.space, d_sum);
      norm_.backward(ctx, saved, dx, d_sum);
      Kokkos::deep_copy(ctx.space, dx, d_sum);
    }
    if (drops) dropout<T>(ctx, config_.dropout, config_.layer, config_.lane, dx, dropped, false);
    const Matrix<T> in = computes_again(ctx) ? rows() : Matrix<T>();
    if (computes_again(ctx)) norm_.again(ctx, saved, in);
    branch(Matrix<const T>(in), Matrix<const T>(drops ? dropped : dx), d_in);
    if (config_.post_norm)
      dropout<T>(ctx, 0, config_.layer, config_.lane, d_in, dx, true);  // the sum alone
    else
      norm_.backward(ctx, saved, d_in, dx);
  }

 private:
  ResidualConfig config_;
  Norm<T> norm_;
};

}  // namespace kokomoe
