// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>
#include <vector>

namespace kokomoe::plot {

/// Names beside their swatches, in the styles 0, 1, ...; with JavaScript they hide and show what
/// has that style.
std::string legend(const std::vector<std::string>& names);

/// A whole page around `body`, with the style sheet that drawings rely on and a script that shows
/// values under the pointer and makes legends work. Nothing is read from elsewhere. `title` is
/// escaped here.
std::string html_page(const std::string& title, const std::string& body);

}  // namespace kokomoe::plot
