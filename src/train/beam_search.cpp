// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/beam_search.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/data/device_batch.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

namespace kokomoe {

namespace {

constexpr double impossible = -std::numeric_limits<double>::infinity();

/// value(r, i), token(r, i) = the i-th largest log-probability of row r and whose it is; the lower
/// token first among equals.
template <class T>
void best_tokens(const ExecutionSpace& space, const Matrix<const T>& logits,
                 const Matrix<double>& value, const Matrix<int>& token) {
  const int vocabulary = static_cast<int>(logits.extent(1));
  const int wanted = static_cast<int>(value.extent(1));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("train::best_tokens"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, static_cast<int>(logits.extent(0))),
      KOKKOS_LAMBDA(const int r) {
        double largest = static_cast<double>(logits(r, 0));
        for (int v = 1; v < vocabulary; ++v) {
          const double x = static_cast<double>(logits(r, v));
          if (x > largest) largest = x;
        }
        double sum = 0;
        for (int v = 0; v < vocabulary; ++v)
          sum += Kokkos::exp(static_cast<double>(logits(r, v)) - largest);
        const double log_sum = largest + Kokkos::log(sum);
        int kept = 0;
        for (int v = 0; v < vocabulary; ++v) {
          const double x = static_cast<double>(logits(r, v)) - log_sum;
          if (kept == wanted && !(x > value(r, wanted - 1))) continue;
          int i = kept < wanted ? kept++ : wanted - 1;
          for (; i > 0 && x > value(r, i - 1); --i) {
            value(r, i) = value(r, i - 1);
            token(r, i) = token(r, i - 1);
          }
          value(r, i) = x;
          token(r, i) = v;
        }
      });
}

/// Sequence r of `to` = sequence parent(r) of `from`, as far as it is filled.
template <class T>
void follow(const ExecutionSpace& space, const KeyValueCache<T>& from, const KeyValueCache<T>& to,
            const Vector<const int>& parent, int sequences, int filled) {
  const int length = from.length, columns = static_cast<int>(from.rows.extent(1));
  const Matrix<T> source = from.rows, target = to.rows;
  for_each_row(
      KOKOMOE_LABEL("train::follow_hypotheses"), space, sequences * filled,
      KOKKOS_LAMBDA(const Row& row) {
        const int r = row.index() / filled, p = row.index() % filled;
        const T* const old = &source(parent(r) * length + p, 0);
        T* const now = &target(r * length + p, 0);
        row.each(columns, [&](const int j) { now[j] = old[j]; });
      });
}

/// One sentence of the search.
struct Sentence {
  std::size_t source = 0;  ///< its number
  int limit = 0;           ///< steps: tokens at most, and an end
  std::vector<Hypothesis> live, finished;
};

/// A continuation of a sentence's live hypothesis.
struct Candidate {
  double log_probability;
  int hypothesis, token;
};

template <class T>
class Search {
 public:
  Search(const StepContext& ctx, const EncoderDecoder<T>& model, int end,
         const SearchOptions& options)
      : ctx_(ctx), model_(model), end_(end), options_(options) {
    if (options.beam < 1) throw InputError("a beam of " + std::to_string(options.beam));
    ctx_.training = false;
  }

  std::vector<std::vector<Hypothesis>> run(const std::vector<std::vector<int>>& sources) {
    check(sources);
    if (sources.empty()) return {};
    encode(sources);
    for (int n = 1; !sentences_.empty(); ++n) {
      advance(n);
      next_sentences(n);
    }
    return std::move(results_);
  }

 private:
  void check(const std::vector<std::vector<int>>& sources) const {
    for (std::size_t i = 0; i < sources.size(); ++i) {
      const std::string name = "sentence " + std::to_string(i + 1) + " of the batch";
      if (sources[i].empty()) throw InputError(name + " has no token");
      if (static_cast<int>(sources[i].size()) >= model_.config().max_length)
        throw InputError(name + " has " + std::to_string(sources[i].size()) +
                         " tokens and an end: the model takes " +
                         std::to_string(model_.config().max_length));
    }
  }

  double score(const Hypothesis& hypothesis, std::size_t n) const {
    return hypothesis.log_probability /
           std::pow((5.0 + static_cast<double>(n)) / 6.0, options_.length_penalty);
  }

  void encode(const std::vector<std::vector<int>>& sources) {
    HostBatch& batch = host_source_;
    int longest = 0;
    batch.sequence_offsets = {0};
    for (std::size_t b = 0; b < sources.size(); ++b) {
      const int length = static_cast<int>(sources[b].size());
      batch.ids.insert(batch.ids.end(), sources[b].begin(), sources[b].end());
      batch.ids.push_back(end_);
      for (int i = 0; i <= length; ++i) {
        batch.position.push_back(i);
        batch.sequence_index.push_back(static_cast<std::uint32_t>(b));
      }
      batch.sequence_offsets.push_back(static_cast<int>(batch.ids.size()));
      batch.max_length = std::max(batch.max_length, length + 1);
      Sentence sentence;
      sentence.source = b;
      sentence.limit = std::min(model_.config().max_length, length + options_.extra_length + 1);
      sentence.live.resize(1);
      longest = std::max(longest, sentence.limit);
      sentences_.push_back(std::move(sentence));
    }
    batch.targets.assign(batch.ids.size(), -1);
    batch.tokens = static_cast<int>(batch.ids.size());
    batch.sequences = static_cast<int>(sources.size());
    results_.resize(sources.size());

    ctx_.saved->reset();
    ctx_.scratch->reset();
    StepContext source = ctx_;
    source.tokens = to_device(ctx_.space, batch, device_source_);
    model_.encode(source, state_);
    caches_ = model_.make_caches(source, state_, options_.beam, longest);
    others_ = model_.decoder().make_caches(batch.sequences * options_.beam, longest);
    const auto all = static_cast<std::size_t>(batch.sequences * options_.beam);
    begin_ = Vector<int>("kokomoe::train::beam_begin", all);
    count_ = Vector<int>("kokomoe::train::beam_count", all);
    parent_ = Vector<int>("kokomoe::train::beam_parent", all);
    // The first step has one hypothesis of each sentence.
    rows_of_.clear();
    for (const Sentence& sentence : sentences_) rows_of_.push_back(sentence.source);
    point_to_memory();
  }

  /// Which source each hypothesis attends to, by rows_of_.
  void point_to_memory() {
    const std::size_t rows = rows_of_.size();
    std::vector<int> begin(rows), count(rows);
    for (std::size_t r = 0; r < rows; ++r) {
      begin[r] = host_source_.sequence_offsets[rows_of_[r]];
      count[r] = host_source_.sequence_offsets[rows_of_[r] + 1] - begin[r];
    }
    upload(begin, begin_);
    upload(count, count_);
    for (MemoryCache<T>& memory : caches_.memory) {
      memory.begin = begin_;
      memory.count = count_;
    }
  }

  void upload(const std::vector<int>& values, const Vector<int>& to) {
    const Kokkos::View<const int*, Kokkos::HostSpace> host(values.data(), values.size());
    Kokkos::deep_copy(ctx_.space, Vector<int>(to.data(), values.size()), host);
    ctx_.space.fence(KOKOMOE_LABEL("train::beam_upload"));
  }

  /// Candidates for token n (from 1) of every live hypothesis, in value_ and token_ on the host.
  void advance(int n) {
    HostBatch& batch = host_target_;
    batch.ids.clear();
    for (const Sentence& sentence : sentences_)
      for (const Hypothesis& hypothesis : sentence.live)
        batch.ids.push_back(n == 1 ? end_ : hypothesis.tokens.back());
    const std::size_t rows = batch.ids.size();
    batch.targets.assign(rows, -1);
    batch.position.assign(rows, n - 1);
    batch.sequence_index.resize(rows);
    batch.sequence_offsets.resize(rows + 1);
    for (std::size_t r = 0; r <= rows; ++r) {
      if (r < rows) batch.sequence_index[r] = static_cast<std::uint32_t>(r);
      batch.sequence_offsets[r] = static_cast<int>(r);
    }
    batch.tokens = batch.sequences = static_cast<int>(rows);
    batch.max_length = 1;

    ctx_.saved->reset();
    ctx_.scratch->reset();
    StepContext target = ctx_;
    target.tokens = to_device(ctx_.space, batch, device_target_);
    const Matrix<T> logits = model_.forward_cached(target, state_, caches_);
    candidates_ =
        std::min<std::size_t>(2 * static_cast<std::size_t>(options_.beam), logits.extent(1));
    const Matrix<double> value = ctx_.scratch->template matrix<double>(rows, candidates_);
    const Matrix<int> token = ctx_.scratch->template matrix<int>(rows, candidates_);
    best_tokens<T>(ctx_.space, logits, value, token);
    value_.resize(rows * candidates_);
    token_.resize(rows * candidates_);
    const auto fetch = [&](auto& to, const auto& from) {
      using Value = typename std::decay_t<decltype(to)>::value_type;
      const Kokkos::View<Value*, Kokkos::HostSpace> host(to.data(), to.size());
      Kokkos::deep_copy(ctx_.space, host, Vector<Value>(from.data(), to.size()));
    };
    fetch(value_, value);
    fetch(token_, token);
    ctx_.space.fence(KOKOMOE_LABEL("train::beam_candidates"));
  }

  /// Chooses who ends and who lives on after token n; sentences that are done leave.
  void next_sentences(int n) {
    std::vector<int> parents;
    std::vector<std::size_t> rows_of;
    std::vector<Sentence> going;
    std::size_t row = 0;
    for (Sentence& sentence : sentences_) {
      const std::size_t first = row;
      row += sentence.live.size();
      std::vector<int> of_sentence;
      choose(sentence, first, n, of_sentence);
      const bool done = static_cast<int>(sentence.finished.size()) >= options_.beam ||
                        n == sentence.limit || sentence.live.empty();
      if (done) {
        finish(sentence);
        continue;
      }
      for (const int parent : of_sentence) {
        parents.push_back(static_cast<int>(first) + parent);
        rows_of.push_back(sentence.source);
      }
      going.push_back(std::move(sentence));
    }
    sentences_ = std::move(going);
    rows_of_ = std::move(rows_of);
    if (sentences_.empty()) return;
    upload(parents, parent_);
    for (std::size_t l = 0; l < others_.size(); ++l)
      follow<T>(ctx_.space, caches_.own[l], others_[l], parent_, static_cast<int>(parents.size()),
                n);
    std::swap(caches_.own, others_);
    point_to_memory();
  }

  void choose(Sentence& sentence, std::size_t first_row, int n, std::vector<int>& parents) {
    std::vector<Candidate> all;
    for (std::size_t h = 0; h < sentence.live.size(); ++h)
      for (std::size_t i = 0; i < candidates_; ++i) {
        const std::size_t at = (first_row + h) * candidates_ + i;
        if (std::isnan(value_[at])) fail("beam search", "the model's logits are not finite");
        all.push_back(
            {sentence.live[h].log_probability + value_[at], static_cast<int>(h), token_[at]});
      }
    std::sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
      if (a.log_probability != b.log_probability) return a.log_probability > b.log_probability;
      return std::pair(a.hypothesis, a.token) < std::pair(b.hypothesis, b.token);
    });
    std::vector<Hypothesis> next;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (static_cast<int>(next.size()) == options_.beam) break;
      if (all[i].log_probability == impossible) break;
      Hypothesis hypothesis = sentence.live[static_cast<std::size_t>(all[i].hypothesis)];
      hypothesis.log_probability = all[i].log_probability;
      if (all[i].token != end_) {
        hypothesis.tokens.push_back(all[i].token);
        parents.push_back(all[i].hypothesis);
        next.push_back(std::move(hypothesis));
      } else if (static_cast<int>(i) < options_.beam) {
        hypothesis.score = score(hypothesis, static_cast<std::size_t>(n));
        sentence.finished.push_back(std::move(hypothesis));
      }
    }
    // The last step is for ends alone: who does not end has no token more.
    if (n < sentence.limit) sentence.live = std::move(next);
  }

  void finish(Sentence& sentence) {
    std::vector<Hypothesis>& result = results_[sentence.source];
    result = std::move(sentence.finished);
    if (result.empty())
      for (Hypothesis& hypothesis : sentence.live) {
        hypothesis.finished = false;
        hypothesis.score = score(hypothesis, hypothesis.tokens.size());
        result.push_back(std::move(hypothesis));
      }
    std::stable_sort(result.begin(), result.end(),
                     [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; });
    if (static_cast<int>(result.size()) > options_.beam)
      result.resize(static_cast<std::size_t>(options_.beam));
  }

  StepContext ctx_;
  const EncoderDecoder<T>& model_;
  int end_;
  SearchOptions options_;
  HostBatch host_source_, host_target_;
  DeviceBatch device_source_, device_target_;
  typename EncoderDecoder<T>::Saved state_;
  typename EncoderDecoder<T>::Caches caches_;
  std::vector<KeyValueCache<T>> others_;  ///< caches_.own of the next step
  Vector<int> begin_, count_, parent_;
  std::vector<Sentence> sentences_;   ///< those that are not done
  std::vector<std::size_t> rows_of_;  ///< the source of each live hypothesis
  std::size_t candidates_ = 0;        ///< of each live hypothesis
  std::vector<double> value_;
  std::vector<int> token_;
  std::vector<std::vector<Hypothesis>> results_;
};

}  // namespace

template <class T>
std::vector<std::vector<Hypothesis>> beam_search(const StepContext& ctx,
                                                 const EncoderDecoder<T>& model,
                                                 const std::vector<std::vector<int>>& sources,
                                                 int end, const SearchOptions& options) {
  return Search<T>(ctx, model, end, options).run(sources);
}

template std::vector<std::vector<Hypothesis>> beam_search<float>(
    const StepContext&, const EncoderDecoder<float>&, const std::vector<std::vector<int>>&, int,
    const SearchOptions&);
template std::vector<std::vector<Hypothesis>> beam_search<double>(
    const StepContext&, const EncoderDecoder<double>&, const std::vector<std::vector<int>>&, int,
    const SearchOptions&);

}  // namespace kokomoe
