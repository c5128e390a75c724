// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>
#include <string_view>

namespace kokomoe::plot {

/// Curves that can be told apart: seven colours in three kinds of dashes.
inline constexpr int most_styles = 21;

/// Text for HTML and SVG, in attributes too. What is no UTF-8, or a control character that HTML has
/// no place for, becomes U+FFFD.
std::string escape(std::string_view text);

/// The same without escaping: for JSON.
std::string valid_utf8(std::string_view text);

/// A length in a drawing, to a hundredth, as short as it goes.
std::string length(double value);

/// The classes that give curve number `style` (from 0) its colour and dashes; see html_page.
std::string style_class(int style);

/// `<text>` at (x, y) with class `kind`, its content escaped.
std::string svg_text(double x, double y, std::string_view kind, std::string_view content);

/// A short line as it stands in a legend: HTML.
std::string swatch(int style);

/// A figure: what it shows, how, and the drawing. HTML; `title` and `note` are escaped here.
std::string figure(std::string_view title, std::string_view note, std::string_view body);

}  // namespace kokomoe::plot
