// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/study/detail/problem.hpp"

#include <cmath>
#include <random>

namespace kokomoe::study {

namespace {
constexpr int features = 16;

std::size_t at(int row, int column, int columns) {
  return static_cast<std::size_t>(row) * static_cast<std::size_t>(columns) +
         static_cast<std::size_t>(column);
}
}  // namespace

std::vector<std::vector<int>> ordered_choices(int experts, int k) {
  std::vector<std::vector<int>> result = {{}};
  for (int r = 0; r < k; ++r) {
    std::vector<std::vector<int>> longer;
    for (const std::vector<int>& choice : result)
      for (int e = 0; e < experts; ++e) {
        bool taken = false;
        for (const int other : choice) taken = taken || other == e;
        if (taken) continue;
        longer.push_back(choice);
        longer.back().push_back(e);
      }
    result = std::move(longer);
  }
  return result;
}

Problem::Problem(SiteLayout layout, int experts, int channels, std::uint64_t seed)
    : layout_(layout), experts_(experts), channels_(channels) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal;
  const auto fill = [&](std::vector<double>& values, int count, double deviation) {
    values.resize(static_cast<std::size_t>(count));
    for (double& value : values) value = deviation * normal(engine);
  };
  const double by_channels = 1 / std::sqrt(static_cast<double>(channels));
  for (int site = 0; site < 2; ++site) {
    fill(logits_[site], experts, 1);
    fill(expert_[site], experts * channels, 1);
    // Steep enough that a third-order error stands above rounding at the smallest scales.
    fill(direction_[site], features * channels, 2);
  }
  fill(mixing_, experts * channels, by_channels);
  fill(expert_mix_, experts * channels * channels, by_channels);
  fill(amplitude_, features, 1);
  fill(phase_, features, 2);
}

std::vector<double> Problem::logits_after(int site, const std::vector<double>& rest,
                                          const std::vector<double>& y1) const {
  if (site == 0 || layout_ != SiteLayout::layers) return rest;
  std::vector<double> z = rest;
  for (int e = 0; e < experts_; ++e)
    for (int c = 0; c < channels_; ++c)
      z[static_cast<std::size_t>(e)] +=
          mixing_[at(e, c, channels_)] * y1[static_cast<std::size_t>(c)];
  return z;
}

std::vector<double> Problem::outputs(int site, const std::vector<double>& y1) const {
  std::vector<double> out = expert_[site];
  if (site == 1 && layout_ == SiteLayout::layers)
    for (int e = 0; e < experts_; ++e)
      for (int c = 0; c < channels_; ++c) {
        double sum = 0;
        for (int j = 0; j < channels_; ++j)
          sum += expert_mix_[at(e * channels_ + c, j, channels_)] *
                 y1[static_cast<std::size_t>(j)];
        out[at(e, c, channels_)] += std::tanh(sum);
      }
  for (double& value : out) value *= h_;
  return out;
}

double Problem::loss(const std::vector<double>& y1, const std::vector<double>& y2,
                     std::vector<double>* d1, std::vector<double>* d2) const {
  const auto channels = static_cast<std::size_t>(channels_);
  if (d1 != nullptr) d1->assign(channels, 0);
  if (d2 != nullptr) d2->assign(channels, 0);
  double sum = 0;
  for (int m = 0; m < features; ++m) {
    double angle = phase_[static_cast<std::size_t>(m)];
    for (int c = 0; c < channels_; ++c) {
      angle += direction_[0][at(m, c, channels_)] * y1[static_cast<std::size_t>(c)];
      if (!y2.empty())
        angle += direction_[1][at(m, c, channels_)] * y2[static_cast<std::size_t>(c)];
    }
    const double a = amplitude_[static_cast<std::size_t>(m)];
    sum += a * std::sin(angle);
    const double slope = a * std::cos(angle);
    for (int c = 0; c < channels_; ++c) {
      if (d1 != nullptr)
        (*d1)[static_cast<std::size_t>(c)] += slope * direction_[0][at(m, c, channels_)];
      if (d2 != nullptr)
        (*d2)[static_cast<std::size_t>(c)] += slope * direction_[1][at(m, c, channels_)];
    }
  }
  return sum;
}

void Problem::add_through_second(const std::vector<double>& y1, const std::vector<int>& chosen,
                                 const std::vector<double>& weight, const std::vector<double>& d2,
                                 const std::vector<double>& d_z2, std::vector<double>& d1) const {
  for (int e = 0; e < experts_; ++e)
    for (int j = 0; j < channels_; ++j)
      d1[static_cast<std::size_t>(j)] +=
          mixing_[at(e, j, channels_)] * d_z2[static_cast<std::size_t>(e)];
  for (std::size_t r = 0; r < chosen.size(); ++r)
    for (int c = 0; c < channels_; ++c) {
      const int row = chosen[r] * channels_ + c;
      double sum = 0;
      for (int j = 0; j < channels_; ++j)
        sum += expert_mix_[at(row, j, channels_)] * y1[static_cast<std::size_t>(j)];
      const double t = std::tanh(sum);
      const double slope = weight[r] * d2[static_cast<std::size_t>(c)] * h_ * (1 - t * t);
      for (int j = 0; j < channels_; ++j)
        d1[static_cast<std::size_t>(j)] += slope * expert_mix_[at(row, j, channels_)];
    }
}

namespace {

/// Softmax over the experts that are not among the first `rounds` of `choice`.
std::vector<double> softmax_without(const std::vector<double>& z, const std::vector<int>& choice,
                                    std::size_t rounds) {
  std::vector<double> p(z.size());
  double sum = 0;
  for (std::size_t e = 0; e < z.size(); ++e) {
    p[e] = std::exp(z[e]);
    for (std::size_t r = 0; r < rounds; ++r)
      if (choice[r] == static_cast<int>(e)) p[e] = 0;
    sum += p[e];
  }
  for (double& value : p) value /= sum;
  return p;
}

}  // namespace

double Problem::objective(Objective objective, int k, const std::vector<double>& logits) const {
  const auto channels = static_cast<std::size_t>(channels_);
  const auto e_count = static_cast<std::size_t>(experts_);
  const std::vector<double> nothing(channels, 0);
  const double at_rest = loss(nothing, sites() == 2 ? nothing : std::vector<double>());
  const std::vector<std::vector<int>> choices = ordered_choices(experts_, k);

  // The output of a choice, and how probable it is.
  const auto outcome = [&](const std::vector<double>& z, const std::vector<double>& out,
                           const std::vector<int>& choice, std::vector<double>& y) {
    double chance = 1;
    y.assign(channels, 0);
    for (std::size_t r = 0; r < choice.size(); ++r) {
      const double p = softmax_without(z, choice, r)[static_cast<std::size_t>(choice[r])];
      chance *= p;
      const double w = objective == Objective::scaled ? p : 1;
      for (std::size_t c = 0; c < channels; ++c)
        y[c] += w * out[static_cast<std::size_t>(choice[r]) * channels + c];
    }
    return chance;
  };

  const std::vector<double> first(logits.begin(), logits.begin() + experts_);
  const std::vector<double> first_out = outputs(0, nothing);
  double sum = 0;
  std::vector<double> y1, y2;
  for (const std::vector<int>& choice : choices) {
    const double chance = outcome(first, first_out, choice, y1);
    if (sites() == 1) {
      sum += chance * (loss(y1, {}) - at_rest);
      continue;
    }
    const std::vector<double> rest(logits.begin() + static_cast<std::ptrdiff_t>(e_count),
                                   logits.end());
    const std::vector<double> second = logits_after(1, rest, y1), second_out = outputs(1, y1);
    for (const std::vector<int>& other : choices)
      sum += chance * outcome(second, second_out, other, y2) * (loss(y1, y2) - at_rest);
  }
  return sum;
}

std::vector<double> Problem::gradient(Objective objective_, int k) const {
  constexpr double step = 0.01;
  constexpr double coefficient[] = {4.0 / 5, -1.0 / 5, 4.0 / 105, -1.0 / 280};
  std::vector<double> z = logits_[0];
  if (sites() == 2) z.insert(z.end(), logits_[1].begin(), logits_[1].end());
  std::vector<double> result(z.size());
  for (std::size_t i = 0; i < z.size(); ++i) {
    const double here = z[i];
    double sum = 0;
    for (int j = 1; j <= 4; ++j) {
      z[i] = here + j * step;
      const double above = objective(objective_, k, z);
      z[i] = here - j * step;
      sum += coefficient[j - 1] * (above - objective(objective_, k, z));
    }
    z[i] = here;
    result[i] = sum / step;
  }
  return result;
}

}  // namespace kokomoe::study
