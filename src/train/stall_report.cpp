// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/watchdog.hpp"

#include <algorithm>
#include <cstdio>
#include <map>
#include <sstream>

namespace kokomoe::detail {

namespace {

constexpr std::size_t line_length = 384;  // a host's name has 255 bytes at most

std::string standing(const Heartbeat& h) {
  return "the " + h.phase + " of step " + std::to_string(h.step);
}

/// Ranks by what is said of them, in the order in which it is said.
class Groups {
 public:
  void add(const std::string& what, int rank) {
    if (ranks_.find(what) == ranks_.end()) order_.push_back(what);
    ranks_[what].push_back(rank);
  }
  std::string text(const char* title) const {
    std::string result;
    for (const std::string& what : order_)
      result += std::string("\n  ") + title + ": " + rank_list(ranks_.at(what)) + " " + what;
    return result;
  }
  bool empty() const { return order_.empty(); }

 private:
  std::vector<std::string> order_;
  std::map<std::string, std::vector<int>> ranks_;
};

}  // namespace

std::string rank_list(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank" : "ranks";
  for (std::size_t i = 0; i < ranks.size();) {
    std::size_t end = i;
    while (end + 1 < ranks.size() && ranks[end + 1] == ranks[end] + 1) ++end;
    text += (i == 0 ? " " : ", ") + std::to_string(ranks[i]);
    if (end > i) text += (end > i + 1 ? "-" : ", ") + std::to_string(ranks[end]);
    i = end + 1;
  }
  return text;
}

std::string format_heartbeat(const Heartbeat& h) {
  std::string line = "heartbeat " + std::to_string(h.written) + " " +
                     std::to_string(h.phase_number) + " " + std::to_string(h.step) + " " +
                     std::to_string(h.collectives) + " " + (h.phase.empty() ? "-" : h.phase) + " " +
                     (h.waits_in.empty() ? "-" : h.waits_in) + " " + h.process;
  line.resize(line_length - 1, ' ');
  return line + "\n";
}

Heartbeat parse_heartbeat(const std::string& line) {
  Heartbeat h;
  std::istringstream text(line);
  std::string title;
  text >> title >> h.written >> h.phase_number >> h.step >> h.collectives >> h.phase >> h.waits_in;
  if (!text || title != "heartbeat" || line.size() != line_length) return {};
  std::getline(text >> std::ws, h.process);
  h.process.erase(h.process.find_last_not_of(" \n") + 1);
  if (h.waits_in == "-") h.waits_in.clear();
  h.found = true;
  return h;
}

std::string stall_report(const std::vector<Heartbeat>& before, const std::vector<Heartbeat>& after,
                         double seconds) {
  std::uint64_t furthest = 0, most = 0;
  const Heartbeat* front = nullptr;
  for (const Heartbeat& h : after)
    if (h.found && (front == nullptr || h.phase_number > furthest)) {
      furthest = h.phase_number;
      front = &h;
    }
  Groups missing, arrived;
  std::vector<int> waiting;
  for (std::size_t r = 0; r < after.size(); ++r) {
    const Heartbeat &now = after[r], &then = before[r];
    const int rank = static_cast<int>(r);
    if (!now.found) {
      missing.add("(there is no file of it in RUN/heartbeat)", rank);
    } else if (then.found && now.written == then.written) {
      missing.add("(" + now.process + "), which does not answer: stopped, dead, or its machine " +
                      "is gone; last seen in " + standing(now),
                  rank);
    } else if (now.phase_number < furthest || now.waits_in.empty()) {
      missing.add("(" + now.process + "), at work in " + standing(now), rank);
    } else {
      waiting.push_back(rank);
      most = std::max(most, now.collectives);
    }
  }
  // Numbers of calls differ with a rank's duties: they count only where nothing else tells.
  const bool count = missing.empty();
  for (const int rank : waiting) {
    const Heartbeat& now = after[static_cast<std::size_t>(rank)];
    if (count && now.collectives < most)
      missing.add("(" + now.process + "), in " + now.waits_in + ", " +
                      std::to_string(most - now.collectives) + " calls behind the others",
                  rank);
    else
      arrived.add("in " + now.waits_in, rank);
  }
  char time[32];
  std::snprintf(time, sizeof time, "%g", seconds);
  std::string text = "the watchdog ends this run: no progress for " + std::string(time) + " s" +
                     (front != nullptr ? " in " + standing(*front) : "");
  text += missing.empty() ? "\n  every rank has arrived: MPI or the network stands still"
                          : missing.text("not arrived");
  return text + arrived.text("arrived, waiting");
}

}  // namespace kokomoe::detail
