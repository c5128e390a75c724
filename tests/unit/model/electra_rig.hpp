// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/model/electra.hpp"
#include "kokomoe/model/sentence_classifier.hpp"
#include "kokomoe/nn/optimizer.hpp"
#include "support/packed_step.hpp"
#include "support/reference_file.hpp"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace kokomoe::test {

/// One sequence of a batch.
struct Sentence {
  std::vector<int> ids;
  std::vector<int> hidden{};  ///< positions, ascending
  std::uint32_t number = 0;   ///< in the whole update
};

/// A batch of sentences with what ElectraModel is told. The second half of each is segment 1.
struct TextStep {
  explicit TextStep(const std::vector<Sentence>& sentences, int mask = 0, int segment_kinds = 2) {
    std::vector<int> ids, offsets{0}, position, masked, rows, segment;
    std::vector<std::uint32_t> index;
    for (const Sentence& sentence : sentences) {
      for (std::size_t i = 0; i < sentence.ids.size(); ++i) {
        ids.push_back(sentence.ids[i]);
        position.push_back(static_cast<int>(i));
        index.push_back(sentence.number);
        segment.push_back(2 * i >= sentence.ids.size() ? 1 : 0);
      }
      masked = ids;
      for (const int p : sentence.hidden) rows.push_back(offsets.back() + p);
      offsets.push_back(static_cast<int>(ids.size()));
    }
    masked = ids;
    for (const int r : rows) masked[static_cast<std::size_t>(r)] = mask;
    step = std::make_unique<PackedStep>(ids, ids, offsets, index, position);
    input.masked_ids = device_vector(masked);
    input.rows = device_vector(rows);
    if (segment_kinds > 0) input.segments = device_vector(segment);
    step->ctx.loss_scale = 1.0 / static_cast<double>(std::max<std::size_t>(1, rows.size()));
  }

  std::unique_ptr<PackedStep> step;
  ElectraInput input;
};

/// One sentence of `length` tokens below `vocabulary`, every fifth hidden.
inline Sentence make_sentence(int length, int vocabulary, std::uint32_t number) {
  Sentence sentence;
  sentence.number = number;
  Draw draw(number + 100);
  for (int i = 0; i < length; ++i) {
    sentence.ids.push_back(
        std::min(vocabulary - 1, static_cast<int>(0.5 * (draw() + 1) * vocabulary)));
    if (i % 5 == 1) sentence.hidden.push_back(i);
  }
  return sentence;
}

constexpr int electra_vocabulary = 11;

inline EncoderConfig small_encoder(bool post_norm, double dropout) {
  EncoderConfig c;
  c.vocabulary = electra_vocabulary;
  c.max_length = 40;
  c.segments = 2;
  c.layers = 2;
  c.heads = 2;
  c.post_norm = post_norm;
  c.dropout = c.attention_dropout = dropout;
  c.moe_every = 2;
  c.moe.d_model = 8;
  c.moe.d_hidden = 6;
  c.moe.experts = 3;
  c.moe.k = 2;
  c.moe.router = "top_k";
  c.moe.activation = Activation::gelu;
  c.moe.bias = true;
  c.moe.balance = 0.05;
  c.moe.z_loss = 0.02;
  return c;
}

/// A model on parameters of a size that makes everything matter.
template <class T, class Model>
struct ModelRig {
  template <class Config>
  explicit ModelRig(const Config& config, const MoeConfig& moe_, bool exact = false) : moe(moe_) {
    model = std::make_unique<Model>(config, store);
    if (exact) store.sum_exactly();
    store.allocate(ExecutionSpace(), 1);
    for (const auto& entry : store.entries())
      fill_device(store.value_vector(store.find(entry.spec.name)),
                  Draw(name_hash(entry.spec.name.c_str())).many<T>(entry.size, 0.6));
    statistics =
        Matrix<double>("kokomoe::test::statistics", static_cast<std::size_t>(model->moe_layers()),
                       static_cast<std::size_t>(LoadStatistics::width(moe.experts)));
  }

  double auxiliary(const StepContext& ctx) const {
    const std::vector<double> rows = on_host(statistics);
    const std::size_t width = statistics.extent(1);
    double sum = 0;
    for (std::size_t l = 0; l < statistics.extent(0); ++l) {
      const LoadMetrics load =
          load_metrics(std::span(rows).subspan(l * width, width), moe.experts, ctx.update_tokens);
      sum += moe.balance * load.balance + moe.z_loss * load.z_square;
    }
    return sum;
  }

  static std::vector<Routing<T>> recorded(const Encoder<T>& encoder,
                                          const typename Encoder<T>::Saved& saved) {
    std::vector<Routing<T>> routings;
    for (std::size_t i = 0; i < encoder.blocks().size(); ++i)
      if (encoder.blocks()[i].moe() != nullptr)
        routings.push_back(saved.blocks[i].moe.routing.clone(ExecutionSpace()));
    return routings;
  }

  /// Of all tensors, one after the other.
  std::vector<std::vector<T>> gradients() {
    if (store.sums_exactly()) store.round_gradients(ExecutionSpace());
    std::vector<std::vector<T>> result;
    for (int i = 0; i < static_cast<int>(store.entries().size()); ++i)
      if (!store.entry({i}).spec.state) result.push_back(on_host(store.gradient_vector({i})));
    return result;
  }

  MoeConfig moe;
  ParameterStore<T> store;
  std::unique_ptr<Model> model;
  Matrix<double> statistics;
  typename Model::Saved saved;
};

template <class T>
struct ElectraRig : ModelRig<T, ElectraModel<T>> {
  explicit ElectraRig(const ElectraConfig& config, bool exact = false)
      : ModelRig<T, ElectraModel<T>>(config, config.discriminator.moe, exact),
        sums("kokomoe::test::sums", ElectraSums::width) {}

  void forward(TextStep& text, const std::vector<Routing<T>>& replay = {}) {
    text.step->reset();
    this->model->forward(text.step->ctx, text.input, this->saved, this->statistics, replay);
  }

  /// Total loss, the generator's, the discriminator's, the auxiliary one; gradients, which are
  /// added to what `begin` = false left, when asked for.
  std::vector<double> losses(TextStep& text, bool backward,
                             const std::vector<Routing<T>>& replay = {}, bool begin = true) {
    forward(text, replay);
    const StepContext& ctx = text.step->ctx;
    this->model->losses(ctx, this->saved, backward, sums);
    if (backward) {
      if (begin) this->store.begin_update();
      this->model->backward(ctx, this->saved);
      this->store.finish_gradients(ctx.space);
    }
    const std::vector<double> values = on_host(sums);
    const double auxiliary = this->auxiliary(ctx);
    const double generator = values[0] * ctx.loss_scale, told = values[2] / ctx.update_tokens;
    return {generator + this->model->config().discriminator_weight * told + auxiliary, generator,
            told, auxiliary};
  }

  Vector<double> sums;
};

template <class T>
struct SentenceRig : ModelRig<T, SentenceClassifier<T>> {
  explicit SentenceRig(const SentenceClassifierConfig& config, bool exact = false)
      : ModelRig<T, SentenceClassifier<T>>(config, config.encoder.moe, exact),
        sums("kokomoe::test::sums", SentenceSums::width) {}

  Matrix<T> forward(TextStep& text, const std::vector<Routing<T>>& replay = {}) {
    text.step->reset();
    return this->model->forward(text.step->ctx, text.input.segments, this->saved, this->statistics,
                                replay);
  }

  /// Total, task and auxiliary loss against labels, or numbers where the model predicts one;
  /// gradients too when asked for.
  std::vector<double> losses(TextStep& text, bool backward,
                             const std::vector<Routing<T>>& replay = {}) {
    forward(text, replay);
    const StepContext& ctx = text.step->ctx;
    if (this->model->config().classes > 1)
      this->model->classification_loss(ctx, this->saved, labels, backward, sums);
    else
      this->model->regression_loss(ctx, this->saved, numbers, backward, sums);
    if (backward) {
      this->store.begin_update();
      this->model->backward(ctx, this->saved);
      this->store.finish_gradients(ctx.space);
    }
    const double task = on_host(sums)[0] * ctx.loss_scale, auxiliary = this->auxiliary(ctx);
    return {task + auxiliary, task, auxiliary};
  }

  Vector<double> sums;
  Vector<int> labels;
  Vector<double> numbers;
};

/// One case of electra.kkref.
class ElectraCase {
 public:
  explicit ElectraCase(const std::string& name_) : name(name_) {}

  static const testing::ReferenceFile& file() {
    static const testing::ReferenceFile reference(std::string(KOKOMOE_TEST_FOLDER) +
                                                  "/reference/electra.kkref");
    return reference;
  }
  std::string at(const std::string& record) const { return name + "/" + record; }
  double number(const std::string& key) const { return file().scalar(at("config/" + key)); }
  int integer(const std::string& key) const { return static_cast<int>(number(key)); }
  AdamWConfig optimizer() const {
    return {number("beta1"), number("beta2"), number("epsilon"), number("weight_decay")};
  }

  EncoderConfig encoder() const {
    EncoderConfig c;
    c.vocabulary = integer("vocabulary");
    c.max_length = integer("max_positions");
    c.segments = integer("segments");
    c.layers = integer("layers");
    c.heads = integer("heads");
    c.post_norm = integer("post_norm") != 0;
    c.bias = integer("bias") != 0;
    c.moe_every = integer("every");
    c.moe.d_model = integer("d_model");
    c.moe.d_hidden = integer("d_hidden");
    c.moe.experts = integer("experts");
    c.moe.bias = c.bias;
    c.moe.output_gain = integer("omega") != 0;
    c.moe.balance = number("balance");
    c.moe.z_loss = number("z_loss");
    // The words are in the table of tests/reference/README.md only.
    c.norm = c.post_norm ? NormKind::layer : NormKind::rms;
    c.positions = c.post_norm ? Positions::learned : Positions::rotary;
    c.moe.activation = c.post_norm        ? Activation::gelu
                       : name == "number" ? Activation::relu
                                          : Activation::swiglu;
    c.moe.router = c.post_norm ? "switch" : "sparsemixer";
    if (c.post_norm) {
      c.moe.options.set("jitter", number("jitter"));
    } else {
      c.moe.options.set("mask_eps", number("mask_eps"));
      c.moe.options.set("grad_factor", number("grad_factor"));
    }
    return c;
  }

  TextStep text() const {
    TextStep result({});
    const auto index = file().i8(at("sequence_index"));
    const std::vector<int> ids = file().i4(at("ids"));
    result.step = std::make_unique<PackedStep>(
        ids, ids, file().i4(at("offsets")), std::vector<std::uint32_t>(index.begin(), index.end()),
        file().i4(at("position")));
    result.step->ctx.seed = static_cast<std::uint64_t>(file().i8(at("config/seed"))[0]);
    result.step->ctx.step = 0;
    result.input = {};
    if (integer("segments") > 0) result.input.segments = device_vector(file().i4(at("segments")));
    return result;
  }

  template <class Rig>
  void set_parameters(Rig& rig) const {
    for (const auto& entry : rig.store.entries())
      fill_device(rig.store.value_vector(rig.store.find(entry.spec.name)),
                  file().f8(at("initial/" + entry.spec.name)));
  }

  std::string name;
};

}  // namespace kokomoe::test
