// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/data/task_metrics.hpp"

#include "kokomoe/core/error.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>

namespace kokomoe {

namespace {

template <class T>
void require_pairs(const char* metric, const std::vector<T>& predicted,
                   const std::vector<T>& labels) {
  if (predicted.size() == labels.size() && !labels.empty()) return;
  throw Error(std::string(metric) + ": " + std::to_string(predicted.size()) + " predictions and " +
              std::to_string(labels.size()) + " labels");
}

double ratio(double numerator, double denominator) {
  return denominator > 0 ? numerator / denominator : 0;
}

void require_numbers(const char* metric, const std::vector<double>& predicted,
                     const std::vector<double>& labels) {
  require_pairs(metric, predicted, labels);
  for (std::size_t i = 0; i < labels.size(); ++i)
    if (!std::isfinite(predicted[i]) || !std::isfinite(labels[i]))
      throw Error(std::string(metric) + ": number " + std::to_string(i) + " of the " +
                  (std::isfinite(predicted[i]) ? "labels" : "predictions") + " is not finite");
}

/// Values less their mean, the largest of size 1; empty where all are equal.
std::vector<double> deviations(const std::vector<double>& values) {
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  if (*least == *most) return {};
  // Halved first: the difference of two finite numbers may not be finite.
  const double middle = 0.5 * *least + 0.5 * *most, scale = 0.5 * *most - 0.5 * *least;
  std::vector<double> result(values.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    result[i] = (0.5 * values[i] - 0.5 * middle) / scale;
  const double mean =
      std::accumulate(result.begin(), result.end(), 0.0) / static_cast<double>(result.size());
  for (double& x : result) x -= mean;
  return result;
}

/// 1-based, equal values sharing the mean.
std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t(0));
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> result(values.size());
  for (std::size_t begin = 0, end; begin < order.size(); begin = end) {
    for (end = begin + 1; end < order.size() && values[order[end]] == values[order[begin]];) ++end;
    for (std::size_t i = begin; i < end; ++i)
      result[order[i]] = 0.5 * static_cast<double>(begin + end + 1);
  }
  return result;
}

}  // namespace

double accuracy(const std::vector<int>& predicted, const std::vector<int>& labels) {
  require_pairs("accuracy", predicted, labels);
  std::size_t hits = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) hits += predicted[i] == labels[i];
  return static_cast<double>(hits) / static_cast<double>(labels.size());
}

double f1_score(const std::vector<int>& predicted, const std::vector<int>& labels, int positive) {
  require_pairs("F1", predicted, labels);
  double hits = 0, said = 0, there = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    hits += predicted[i] == positive && labels[i] == positive;
    said += predicted[i] == positive;
    there += labels[i] == positive;
  }
  return ratio(2 * hits, said + there);
}

double matthews_correlation(const std::vector<int>& predicted, const std::vector<int>& labels) {
  require_pairs("Matthews' correlation", predicted, labels);
  struct Class {
    double said = 0, there = 0;
  };
  std::map<int, Class> classes;
  double hits = 0;
  const auto all = static_cast<double>(labels.size());
  for (std::size_t i = 0; i < labels.size(); ++i) {
    ++classes[predicted[i]].said;
    ++classes[labels[i]].there;
    hits += predicted[i] == labels[i];
  }
  double both = 0, said = 0, there = 0;
  for (const auto& [name, count] : classes) {
    both += count.said * count.there;
    said += count.said * count.said;
    there += count.there * count.there;
  }
  return ratio(hits * all - both, std::sqrt((all * all - said) * (all * all - there)));
}

double pearson_correlation(const std::vector<double>& predicted,
                           const std::vector<double>& labels) {
  require_numbers("Pearson's correlation", predicted, labels);
  const std::vector<double> x = deviations(predicted), y = deviations(labels);
  if (x.empty() || y.empty()) return 0;
  double xy = 0, xx = 0, yy = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    xy += x[i] * y[i];
    xx += x[i] * x[i];
    yy += y[i] * y[i];
  }
  return ratio(xy, std::sqrt(xx) * std::sqrt(yy));
}

double spearman_correlation(const std::vector<double>& predicted,
                            const std::vector<double>& labels) {
  require_numbers("Spearman's correlation", predicted, labels);
  return pearson_correlation(ranks(predicted), ranks(labels));
}

}  // namespace kokomoe
