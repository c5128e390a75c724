// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/batches.hpp"
#include "kokomoe/data/device_batch.hpp"
#include "kokomoe/model/block_stack.hpp"
#include "kokomoe/parallel/expert_exchange.hpp"
#include "kokomoe/train/model_count.hpp"
#include "kokomoe/train/train_config.hpp"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace kokomoe {

/// What one update did; sums are over all ranks and micro-batches.
struct UpdateReport {
  std::int64_t step = 0;  ///< updates done, this one included
  double loss = 0;        ///< task + auxiliary
  double task_loss = 0;   ///< nats a token, label smoothing included
  double aux_loss = 0;
  double learning_rate = 0;
  double grad_norm = 0;           ///< before clipping
  std::int64_t tokens = 0;        ///< of this update
  double flops = 0;               ///< of its matrix products, see ModelCount
  std::vector<LoadMetrics> load;  ///< one for each MoE layer, of the last micro-batch
  /// Why the update was left out: what was not finite, in which layer and tensor. "": it was made.
  std::string not_finite;
};

/// What an evaluation on held-out data found.
struct Evaluation {
  double loss = 0;  ///< what the best checkpoint is chosen by
  /// Further figures by the names that metrics.jsonl has for them.
  std::vector<std::pair<std::string, double>> figures;
  std::int64_t scored = 0;      ///< how many
  std::int64_t bytes = 0;       ///< of text that they stand for; 0: not known
  std::string unit = "tokens";  ///< of what: "tokens" or "sentences"
};

/// A text that a model wrote, what from, and what it might have written.
struct Sample {
  std::string text, source, reference;  ///< reference: "" where there is none
};

/// A model with everything that an update needs: parameters, arenas, batches. One update is: fill a
/// batch, forward, loss, backward, for each micro-batch; then reduce, clip, AdamW. A task says how
/// to fill, which losses there are and what an evaluation is; all else stands here.
template <class T>
class Trainer {
 public:
  virtual ~Trainer() = default;
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Update number `step` (from 0), which depends on (deck, step, parameters) alone. When loss or
  /// gradient is not finite, parameters, moments and the routers' state stay as they were, and it
  /// throws NotFinite naming step, layer and tensor, the same on every rank, or, with
  /// skip_non_finite, says so in the report. The report is valid until the next update.
  const UpdateReport& update(std::int64_t step);

  /// The held-out data, in evaluation mode. `thoroughly`: with what takes much longer than to read
  /// it once, such as translating it. Collective.
  virtual Evaluation evaluate_heldout(bool thoroughly = false) = 0;
  /// Up to `count` texts from the first of the held-out data, the same each time but for the model.
  /// None where a task writes no text. Collective.
  virtual std::vector<Sample> samples(int count, const Tokenizer& tokenizer);
  /// Tokens that an evaluation reads; 0: there is nothing held out.
  virtual double heldout_tokens() const = 0;
  /// Of the training data, 16 hexadecimal digits.
  virtual std::string data_digest() const = 0;
  /// "34.0k pairs, 4.1k tokens an update, 3.0k pairs held out".
  virtual std::string data_summary() const = 0;

  ParameterStore<T>& store() { return store_; }
  const ExpertLayout& layout() const { return layout_; }
  /// Null where every rank has all experts.
  const ExpertExchange* exchange() const { return exchange_.get(); }
  const MoeConfig& moe() const { return moe_; }
  int layers() const;      ///< of all stacks
  int moe_layers() const;  ///< likewise
  /// Parameters, and floating-point operations of a token that meets every stack.
  const ModelCount& count() const { return count_; }
  std::size_t peak_bytes() const;  ///< device memory: parameters, moments, arenas
  std::size_t saved_bytes() const { return saved_.high_water(); }      ///< most of it in use so far
  std::size_t scratch_bytes() const { return scratch_.high_water(); }  ///< likewise
  int arena_growths() const { return saved_.growths() + scratch_.growths(); }

 protected:
  /// Blocks that see the same tokens, as one micro-batch has them.
  struct Part {
    BlockStack<T>* stack = nullptr;
    const HostBatch* batch = nullptr;
    double token_flops = 0;  ///< see set_count
  };

  /// `communicator` must outlive it.
  Trainer(const TrainConfig& config, const Communicator& communicator);

  /// Once the model has declared its tensors: lays out the store. `loss_width`: doubles that a
  /// micro-batch's losses take. The last part's tokens are those that the update is said to have.
  void allocate(std::vector<Part> parts, const MoeConfig& moe, int loss_width);
  /// What updates report about work; its stacks are the parts.
  void set_count(const ModelCount& count);

  /// Micro-batch a of update `step` into the parts' batches.
  virtual void fill(std::int64_t step, int micro_batch) = 0;
  /// Its forward, losses and backward. WRITES `sums` (loss_width), which add over ranks, and
  /// `load`: one row for each MoE layer, part by part.
  virtual void pass(std::int64_t step, const Vector<double>& sums, const Matrix<double>& load) = 0;
  /// What a micro-batch adds to the update's task loss, by its sums over all ranks.
  virtual double task_loss(const double* sums) const = 0;

  /// A step's context with these tokens, its arenas as they are.
  StepContext context(const HostBatch& batch, DeviceBatch& device, bool training,
                      std::int64_t step);
  /// The same without tokens.
  StepContext bare_context(bool training, std::int64_t step);
  void reset_arenas();
  /// Tokens that an evaluation takes at once on this rank, or one sequence that has more: as many
  /// as a micro-batch of an update of so many, whose memory it then has, but no more than keep a
  /// device busy, for models that were trained on more ranks. At least 1.
  std::int64_t evaluation_tokens(std::int64_t update_tokens) const {
    constexpr std::int64_t most = 8192;
    return std::clamp<std::int64_t>(update_tokens / train_.accumulate / communicator_->size(), 1,
                                    most);
  }
  /// `width` sums on the device for an evaluation; and their values on the host once it has run.
  Vector<double> evaluation_sums(int width) const;
  const double* fetch_sums();
  /// (sequences) in ctx.saved where some router learns from each sequence's loss; else empty.
  Vector<double> sequence_losses(const StepContext& ctx);

  const Communicator& communicator() const { return *communicator_; }
  const ExecutionSpace& space() const { return space_; }
  Arena& saved_arena() { return saved_; }

 private:
  void end_step(std::int64_t step);
  bool check_finite(UpdateReport& report);
  void read_statistics(UpdateReport& report);
  /// Calls work(MoE layer's number over all parts, block's number over all, its layer, its part).
  template <class Work>
  void for_each_moe_layer(const Work& work);

  TrainConfig train_;
  ExpertLayout layout_;
  const Communicator* communicator_;          ///< all ranks
  std::unique_ptr<ExpertExchange> exchange_;  ///< null where every rank has all experts
  ExecutionSpace space_;
  ParameterStore<T> store_;
  MoeConfig moe_;
  ModelCount count_;
  std::vector<Part> parts_;
  Arena saved_, scratch_;
  int loss_width_ = 0;
  Vector<double> counts_;      ///< (MoE layers, E) of one update, over all ranks
  Vector<double> statistics_;  ///< micro-batches of [loss sums | MoE layers]
  Vector<double>::host_mirror_type host_statistics_;
  bool needs_sequence_loss_ = false;  ///< of some router's
  // Kept between updates, which so ask for no memory.
  UpdateReport report_;
  std::vector<double> micro_tokens_;  ///< (micro-batches, parts) over all ranks
};

}  // namespace kokomoe
