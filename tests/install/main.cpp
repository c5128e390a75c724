// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// The README's example of an embedded layer, with checks of what comes out.
#include <kokomoe/config.hpp>
#include <kokomoe/moe/moe_layer.hpp>

#include <cmath>
#include <cstdio>
#include <cstring>

using namespace kokomoe;

int main(int argc, char** argv) {
  Kokkos::ScopeGuard guard(argc, argv);
  const int rows = 1000, d = 64;
  MoeConfig config;
  config.d_model = d;
  config.d_hidden = 256;
  config.experts = 8;
  config.router = "sparsemixer";

  StepContext ctx;  // your execution space instance, your communicator, your memory
  Communicator alone;
  Arena saved("saved"), scratch("scratch");
  ctx.communicator = &alone;
  ctx.saved = &saved;
  ctx.scratch = &scratch;
  ctx.tokens = number_rows(ctx.space, rows);
  ctx.update_tokens = rows;

  ParameterStore<float> parameters;
  MoeLayer<float> layer(config, 0, parameters, "moe");
  parameters.allocate(ctx.space, 1);

  Matrix<float> x("x", rows, d), y("y", rows, d), dy("dy", rows, d), dx("dx", rows, d);
  Kokkos::deep_copy(x, 0.5f);
  Kokkos::deep_copy(dy, 1.0f);
  MoeLayer<float>::Saved state;
  parameters.begin_update();
  layer.forward(ctx, x, y, state);
  layer.backward(ctx, state, dy, dx);
  Kokkos::fence();

  double sum = 0, gradient = 0;
  const auto host_y = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), y);
  const auto host_dx = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), dx);
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < d; ++c) {
      sum += std::abs(host_y(r, c));
      gradient += std::abs(host_dx(r, c));
    }
  std::printf("kokomoe %s on %s: |y| %.3f, |dx| %.3f, %zu parameters\n", version(),
              ExecutionSpace::name(), sum, gradient, parameters.parameters());
  const bool alive = std::isfinite(sum) && sum > 0 && std::isfinite(gradient) && gradient > 0;
  return alive && std::strcmp(version(), KOKOMOE_VERSION) == 0 ? 0 : 1;
}
