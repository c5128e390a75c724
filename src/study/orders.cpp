// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "study/gate.hpp"
#include "kokomoe/study/detail/problem.hpp"
#include "study/statistics.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace kokomoe {

using namespace study;

namespace {

/// Values of s and their probabilities.
struct Node {
  double scale;
  double chance;
};

/// The law of s as a sum; the uniform part by Gauss-Legendre's twelve points, exact to degree 23.
std::vector<Node> scale_nodes(const ScaleLaw& law, bool is_argmax) {
  if (law.low_chance == 0 || (law.argmax_exception && is_argmax)) return {{1, 1}};
  std::vector<Node> nodes = {{1, 1 - law.low_chance}};
  if (!law.uniform) {
    nodes.push_back({law.low, law.low_chance});
    return nodes;
  }
  constexpr std::array<double, 6> x = {0.1252334085114689, 0.3678314989981802, 0.5873179542866175,
                                       0.7699026741943047, 0.9041172563704749, 0.9815606342467192};
  constexpr std::array<double, 6> w = {0.2491470458134028, 0.2334925365383548, 0.2031674267230659,
                                       0.1600783285433462, 0.1069393259953184, 0.0471753363865118};
  for (std::size_t i = 0; i < x.size(); ++i)
    for (const double sign : {-1.0, 1.0})
      nodes.push_back({0.5 * (1 + sign * x[i]), 0.5 * w[i] * law.low_chance});
  return nodes;
}

/// One outcome of one site: choices and scales of its rounds.
struct Outcome {
  std::vector<int> chosen;
  std::vector<double> scale;
  double chance;  ///< of the scales, given the choices
};

std::vector<Outcome> outcomes_of(const EstimatorInfo& info, int k, const double* logits,
                                 int experts) {
  std::vector<Outcome> result;
  for (const std::vector<int>& chosen : ordered_choices(experts, k)) {
    std::vector<Outcome> partial = {{chosen, {}, 1}};
    for (int r = 0; r < k; ++r) {
      int argmax = -1;
      for (int e = 0; e < experts; ++e) {
        const auto end = chosen.begin() + r;
        if (std::find(chosen.begin(), end, e) != end) continue;
        if (argmax < 0 || logits[e] > logits[argmax]) argmax = e;
      }
      std::vector<Outcome> longer;
      const bool scaled = info.objective == Objective::scaled;
      for (const Node& node :
           scaled ? scale_nodes(info.scale, chosen[static_cast<std::size_t>(r)] == argmax)
                  : std::vector<Node>{{1, 1}})
        for (Outcome outcome : partial) {
          outcome.scale.push_back(node.scale);
          outcome.chance *= node.chance;
          longer.push_back(std::move(outcome));
        }
      partial = std::move(longer);
    }
    result.insert(result.end(), partial.begin(), partial.end());
  }
  return result;
}

/// One site's part of all outcomes of a problem, row by row.
struct SiteRows {
  std::vector<double> logits, scale, weight, chance;
  std::vector<int> chosen;

  void append(const std::vector<double>& z, const Outcome& outcome) {
    logits.insert(logits.end(), z.begin(), z.end());
    chosen.insert(chosen.end(), outcome.chosen.begin(), outcome.chosen.end());
    scale.insert(scale.end(), outcome.scale.begin(), outcome.scale.end());
    chance.push_back(outcome.chance);
  }
  /// Chances of the choices, and the weights at the scales drawn, as the router gives them.
  void run(Gate& gate) {
    std::vector<double> ones(scale.size(), 1), weight_of_ones;
    gate.follow(logits, chosen, ones, weight_of_ones);
    const std::vector<double> p = gate.choice_probability(weight_of_ones);
    for (std::size_t t = 0; t < p.size(); ++t) chance[t] *= p[t];
    gate.follow(logits, chosen, scale, weight);
  }
  template <class U>
  static std::vector<U> row(const std::vector<U>& values, std::size_t t, int width) {
    const auto w = static_cast<std::ptrdiff_t>(width);
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>(t) * w;
    return {begin, begin + w};
  }
};

std::vector<double> weighted_output(const std::vector<double>& outputs, int channels,
                                    const std::vector<int>& chosen,
                                    const std::vector<double>& weight) {
  const auto d = static_cast<std::size_t>(channels);
  std::vector<double> y(d, 0);
  for (std::size_t r = 0; r < chosen.size(); ++r)
    for (std::size_t c = 0; c < d; ++c)
      y[c] += weight[r] * outputs[static_cast<std::size_t>(chosen[r]) * d + c];
  return y;
}

void append_inner(const std::vector<double>& outputs, const std::vector<double>& d_y,
                  std::vector<double>& inner) {
  const std::size_t d = d_y.size();
  for (std::size_t e = 0; e < outputs.size() / d; ++e) {
    double sum = 0;
    for (std::size_t c = 0; c < d; ++c) sum += d_y[c] * outputs[e * d + c];
    inner.push_back(sum);
  }
}

/// The mean of the estimator's gradient by all logits (sites E), everything enumerated.
std::vector<double> expected_estimate(Problem& problem, Gate& first, Gate& second) {
  const int experts = problem.experts(), channels = problem.channels(), k = first.k();
  const auto e_count = static_cast<std::size_t>(experts);
  const std::vector<double> nothing(static_cast<std::size_t>(channels), 0);
  const std::vector<double> out1 = problem.outputs(0, nothing);
  SiteRows one, two;
  for (const Outcome& outcome :
       outcomes_of(first.info(), k, problem.logits(0).data(), experts))
    one.append(problem.logits(0), outcome);
  one.run(first);

  if (problem.sites() == 2) {
    // Each outcome of the first site with each of the second.
    const SiteRows alone = one;
    one = SiteRows();
    for (std::size_t t = 0; t < alone.chance.size(); ++t) {
      const std::vector<int> chosen = SiteRows::row(alone.chosen, t, k);
      const std::vector<double> scale = SiteRows::row(alone.scale, t, k);
      const std::vector<double> weight = SiteRows::row(alone.weight, t, k);
      const std::vector<double> y1 = weighted_output(out1, channels, chosen, weight);
      const std::vector<double> z = problem.logits_after(1, problem.logits(1), y1);
      for (const Outcome& outcome : outcomes_of(second.info(), k, z.data(), experts)) {
        one.append(problem.logits(0), {chosen, scale, alone.chance[t]});
        one.weight.insert(one.weight.end(), weight.begin(), weight.end());
        two.append(z, outcome);
      }
    }
    first.follow(one.logits, one.chosen, one.scale, one.weight);
    two.run(second);
  }

  // Losses and gradients of every outcome.
  const std::size_t rows = one.chance.size();
  std::vector<double> losses(rows), inner1, inner2, d_z2;
  std::vector<std::vector<double>> y1(rows), d1(rows), d2(rows);
  for (std::size_t t = 0; t < rows; ++t) {
    y1[t] = weighted_output(out1, channels, SiteRows::row(one.chosen, t, k),
                            SiteRows::row(one.weight, t, k));
    std::vector<double> y2, out2;
    if (problem.sites() == 2) {
      out2 = problem.outputs(1, y1[t]);
      y2 = weighted_output(out2, channels, SiteRows::row(two.chosen, t, k),
                           SiteRows::row(two.weight, t, k));
    }
    losses[t] = problem.loss(y1[t], y2, &d1[t], &d2[t]);
    if (problem.sites() == 2) append_inner(out2, d2[t], inner2);
  }
  if (problem.sites() == 2) d_z2 = second.backward(inner2, losses);
  for (std::size_t t = 0; t < rows; ++t) {
    if (problem.layout() == SiteLayout::layers)
      problem.add_through_second(y1[t], SiteRows::row(two.chosen, t, k),
                                 SiteRows::row(two.weight, t, k), d2[t],
                                 SiteRows::row(d_z2, t, experts), d1[t]);
    append_inner(out1, d1[t], inner1);
  }
  const std::vector<double> d_z1 = first.backward(inner1, losses);
  std::vector<double> mean(problem.sites() == 2 ? 2 * e_count : e_count, 0);
  for (std::size_t t = 0; t < rows; ++t) {
    const double chance = one.chance[t] * (two.chance.empty() ? 1 : two.chance[t]);
    for (std::size_t e = 0; e < e_count; ++e) {
      mean[e] += chance * d_z1[t * e_count + e];
      if (problem.sites() == 2) mean[e_count + e] += chance * d_z2[t * e_count + e];
    }
  }
  return mean;
}

const char* layout_name(SiteLayout layout) {
  if (layout == SiteLayout::one) return "one";
  return layout == SiteLayout::tokens ? "tokens" : "layers";
}

std::uint64_t problem_seed(std::uint64_t seed, int experts, int problem) {
  return (seed * 1000003u + static_cast<std::uint64_t>(experts)) * 1000003u +
         static_cast<std::uint64_t>(problem);
}

FidelityResult heading(const EstimatorForm& form, const Gate& gate, SiteLayout layout, int k) {
  FidelityResult result;
  result.estimator = form.name;
  result.objective = gate.info().objective == Objective::scaled ? "A" : "B";
  result.layout = layout_name(layout);
  result.sites = layout == SiteLayout::one ? 1 : 2;
  result.k = k;
  result.argmax_exception = form.argmax_exception;
  result.expert_runs = gate.info().objective == Objective::scaled ? k : gate.experts();
  return result;
}

/// Calls work(form, k) for each estimator with and without the exception, where it takes k.
template <class Work>
void for_each_form(const FidelityConfig& config, const Work& work) {
  for (const std::string& name : config.estimators)
    for (const bool exception : {false, true}) {
      if (exception && !has_argmax_exception(name)) continue;
      const EstimatorForm form = estimator_form(name, exception);
      for (const int k : config.k)
        if (k == 1 || router_info(form.router).takes_k) work(form, k);
    }
}

constexpr double rounding = 1e-10;

}  // namespace

std::vector<FidelityResult> fidelity_orders(const FidelityConfig& config) {
  std::vector<FidelityResult> results;
  for (const SiteLayout layout : config.layouts) {
    for_each_form(config, [&](const EstimatorForm& form, int k) {
      std::vector<double> errors, cosines, scaled_errors, orders, scaled_orders;
      FidelityResult result;
      for (const int experts : config.experts) {
        if (k > experts) continue;
        Gate first(form, experts, k, config.seed), second(form, experts, k, config.seed);
        result = heading(form, first, layout, k);
        for (int i = 0; i < config.problems; ++i) {
          Problem problem(layout, experts, config.channels,
                          problem_seed(config.seed, experts, i));
          std::vector<double> error, scaled;
          for (const double h : config.scales) {
            problem.set_scale(h);
            const GradientError found =
                compare_gradients(expected_estimate(problem, first, second),
                                  problem.gradient(first.info().objective, k));
            error.push_back(found.relative);
            scaled.push_back(found.scaled);
            if (h != config.scales.front()) continue;
            errors.push_back(found.relative);
            scaled_errors.push_back(found.scaled);
            cosines.push_back(found.cosine);
          }
          if (error.back() > rounding) orders.push_back(log_slope(config.scales, error));
          if (scaled.back() > rounding) scaled_orders.push_back(log_slope(config.scales, scaled));
        }
      }
      if (errors.empty()) return;
      result.scale = config.scales.front();
      result.relative_error = median(errors);
      result.scaled_error = median(scaled_errors);
      result.cosine = median(cosines);
      // Exact where most problems are.
      if (2 * orders.size() > errors.size()) result.order = median(orders);
      if (2 * scaled_orders.size() > errors.size()) result.scaled_order = median(scaled_orders);
      results.push_back(result);
    });
  }
  return results;
}

std::vector<FidelityResult> fidelity_spread(const FidelityConfig& config) {
  std::vector<FidelityResult> results;
  for (const double h : config.scales) {
    for_each_form(config, [&](const EstimatorForm& form, int k) {
      std::vector<double> errors, cosines, scaled_errors, biases, variances, sums;
      FidelityResult result;
      for (const int experts : config.experts) {
        if (k > experts) continue;
        Gate gate(form, experts, k, config.seed);
        result = heading(form, gate, SiteLayout::one, k);
        const auto e_count = static_cast<std::size_t>(experts);
        const auto rows = static_cast<std::size_t>(config.samples);
        for (int i = 0; i < config.problems; ++i) {
          Problem problem(SiteLayout::one, experts, config.channels,
                          problem_seed(config.seed, experts, i));
          problem.set_scale(h);
          const std::vector<double> exact = problem.gradient(gate.info().objective, k);
          const GradientError enumerated =
              compare_gradients(expected_estimate(problem, gate, gate), exact);

          const std::vector<double> out = problem.outputs(0, {});
          std::vector<double> logits, weight, losses(rows), inner, d_y;
          for (std::size_t t = 0; t < rows; ++t)
            logits.insert(logits.end(), problem.logits(0).begin(), problem.logits(0).end());
          std::vector<int> chosen;
          gate.draw(logits, static_cast<std::uint64_t>(i), chosen, weight);
          for (std::size_t t = 0; t < rows; ++t) {
            const std::vector<double> y =
                weighted_output(out, config.channels, SiteRows::row(chosen, t, k),
                                SiteRows::row(weight, t, k));
            losses[t] = problem.loss(y, {}, &d_y);
            append_inner(out, d_y, inner);
          }
          const std::vector<double> d_z = gate.backward(inner, losses);
          std::vector<double> mean(e_count, 0);
          double square = 0, size = 0, mean_square = 0;
          for (std::size_t n = 0; n < d_z.size(); ++n) {
            mean[n % e_count] += d_z[n] / static_cast<double>(rows);
            square += d_z[n] * d_z[n] / static_cast<double>(rows);
          }
          for (std::size_t e = 0; e < e_count; ++e) {
            size += exact[e] * exact[e];
            mean_square += mean[e] * mean[e];
          }
          const double variance = (square - mean_square) / size;
          errors.push_back(compare_gradients(mean, exact).relative);
          cosines.push_back(compare_gradients(mean, exact).cosine);
          scaled_errors.push_back(compare_gradients(mean, exact).scaled);
          biases.push_back(enumerated.relative);
          variances.push_back(variance);
          sums.push_back(enumerated.relative * enumerated.relative + variance);
        }
      }
      if (errors.empty()) return;
      result.scale = h;
      result.relative_error = median(errors);
      result.cosine = median(cosines);
      result.scaled_error = median(scaled_errors);
      result.bias = median(biases);
      result.variance = median(variances);
      result.mse = median(sums);
      results.push_back(result);
    });
  }
  return results;
}

}  // namespace kokomoe
