// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "report_run.hpp"

#include <string>
#include <vector>

namespace kokomoe::app {

/// The whole page: tables, curves, heat maps, samples, decks. `loss` is the column that is shown as
/// the training loss, `when` a line on what wrote the page.
std::string report_page(const std::vector<ReportRun>& runs, const std::string& loss,
                        const std::string& when);

/// Its sections, each HTML that begins with a heading.
std::string table_section(const std::vector<ReportRun>& runs, const std::string& loss);
std::string deck_section(const std::vector<ReportRun>& runs);
std::string loss_section(const std::vector<ReportRun>& runs, const std::string& loss);
std::string evaluation_section(const std::vector<ReportRun>& runs);
std::string optimizer_section(const std::vector<ReportRun>& runs);
std::string expert_section(const std::vector<ReportRun>& runs);
std::string sample_section(const std::vector<ReportRun>& runs);
std::string machine_section(const std::vector<ReportRun>& runs);
std::string whole_decks(const std::vector<ReportRun>& runs);

/// "a, b and c".
std::string joined(const std::vector<std::string>& names);
std::vector<std::string> run_names(const std::vector<ReportRun>& runs);
/// A paragraph on what there is not.
std::string missing(const std::string& text);

}  // namespace kokomoe::app
