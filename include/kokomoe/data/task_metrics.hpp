// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <vector>

namespace kokomoe {

/// GLUE's metrics of predictions against labels, equally many of each, at least one, and finite: else
/// Error. Where a metric's denominator is zero it is 0: a correlation with what is constant, say.

double accuracy(const std::vector<int>& predicted, const std::vector<int>& labels);

/// F1 of the class `positive`: 2 hits / (2 hits + false alarms + misses).
double f1_score(const std::vector<int>& predicted, const std::vector<int>& labels,
                int positive = 1);

/// Matthews' correlation, of any number of classes (Gorodkin 2004), -1 to 1.
double matthews_correlation(const std::vector<int>& predicted, const std::vector<int>& labels);

/// Pearson's r, -1 to 1.
double pearson_correlation(const std::vector<double>& predicted, const std::vector<double>& labels);

/// Spearman's rank correlation: Pearson's of ranks, equal values sharing the mean of theirs.
double spearman_correlation(const std::vector<double>& predicted,
                            const std::vector<double>& labels);

}  // namespace kokomoe
