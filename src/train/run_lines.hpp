// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/train/run_record.hpp"

#include <nlohmann/json.hpp>

#include <functional>
#include <string>

namespace kokomoe::detail {

/// Calls with each line's object, in order, and its number from 1. A last line without an end that
/// is no JSON is noted. InputError "<path>:<line>: error: ..." for any other, and for what `take`
/// throws as InputError, which need not say where.
void for_each_json_line(const std::string& path, std::vector<std::string>& notes,
                        const std::function<void(const nlohmann::json&)>& take);

/// What may be missing: effective.toml, machine.json, samples.jsonl.
void read_run_files(const std::string& folder, RunRecord& run);

}  // namespace kokomoe::detail
