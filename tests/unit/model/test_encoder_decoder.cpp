// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/model/encoder_decoder.hpp"
#include "kokomoe/nn/cross_entropy.hpp"
#include "kokomoe/nn/optimizer.hpp"
#include "support/catch.hpp"
#include "support/packed_step.hpp"
#include "support/reference_file.hpp"

#include <memory>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// Two sides of one step, parameters and a model.
template <class T>
struct Rig {
  std::unique_ptr<PackedStep> source, target;
  ParameterStore<T> store;
  std::unique_ptr<EncoderDecoder<T>> model;
  Matrix<double> statistics;
  typename EncoderDecoder<T>::Saved saved;

  void make(const EncoderDecoderConfig& config) {
    model = std::make_unique<EncoderDecoder<T>>(config, store);
    store.allocate(ExecutionSpace(), 1);
    statistics =
        Matrix<double>("kokomoe::test::statistics", static_cast<std::size_t>(model->moe_layers()),
                       static_cast<std::size_t>(LoadStatistics::width(config.moe.experts)));
  }

  Matrix<T> forward(const std::vector<Routing<T>>& replay = {}) {
    source->reset();
    target->reset();
    return model->forward(source->ctx, target->ctx, saved, statistics, replay);
  }

  /// Total, task and auxiliary loss; gradients too when asked for.
  std::vector<double> losses(double smoothing, bool backward,
                             const std::vector<Routing<T>>& replay = {}) {
    const Matrix<T> logits = forward(replay);
    const Vector<double> sums = target->scratch.template vector<double>(CrossEntropySums::width);
    cross_entropy<T>(target->ctx, logits, target->ctx.tokens.targets, smoothing, backward, sums);
    const double task = on_host(sums)[0] * target->ctx.loss_scale;
    if (backward) {
      store.begin_update();
      model->backward(source->ctx, target->ctx, saved, logits);
      store.finish_gradients(target->ctx.space);
    }
    const MoeConfig& moe = model->config().moe;
    const std::vector<double> rows = on_host(statistics);
    double auxiliary = 0;
    for (int l = 0; l < model->moe_layers(); ++l) {
      const bool encoder = l < model->encoder().moe_layers();
      const std::size_t width = statistics.extent(1);
      const LoadMetrics load = load_metrics(
          std::span<const double>(rows).subspan(static_cast<std::size_t>(l) * width, width),
          moe.experts, (encoder ? source : target)->ctx.update_tokens);
      auxiliary += moe.balance * load.balance + moe.z_loss * load.z_square;
    }
    return {task + auxiliary, task, auxiliary};
  }

  std::vector<Routing<T>> recorded() const {
    std::vector<Routing<T>> routings;
    const auto add = [&](const BlockStack<T>& stack, const auto& states) {
      for (std::size_t i = 0; i < stack.blocks().size(); ++i)
        if (stack.blocks()[i].moe() != nullptr)
          routings.push_back(states[i].moe.routing.clone(ExecutionSpace()));
    };
    add(model->encoder(), saved.encoder);
    add(model->decoder(), saved.decoder);
    return routings;
  }
};

template <class T>
struct ReferenceRig : Rig<T> {
  const testing::ReferenceFile& file;
  std::string name;

  explicit ReferenceRig(const std::string& name_) : file(reference()), name(name_) {
    EncoderDecoderConfig c;
    const auto integer = [&](const char* key) { return static_cast<int>(number(key)); };
    c.vocabulary = integer("vocabulary");
    c.encoder_layers = c.decoder_layers = integer("layers");
    c.heads = integer("heads");
    c.max_length = integer("max_positions");
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
    c.norm = name == "pre" ? NormKind::rms : NormKind::layer;
    c.moe.activation = name == "post"  ? Activation::relu
                       : name == "pre" ? Activation::swiglu
                                       : Activation::gelu;
    c.moe.router = name == "pre" ? "sparsemixer" : "switch";
    if (name == "pre") {
      c.moe.options.set("mask_eps", number("mask_eps"));
      c.moe.options.set("grad_factor", number("grad_factor"));
    } else {
      c.moe.options.set("jitter", number("jitter"));
    }
    this->source = side("source");
    this->target = side("target");
    this->make(c);
    for (const auto& entry : this->store.entries())
      fill_device(this->store.value_vector(this->store.find(entry.spec.name)),
                  file.real<T>(at("initial/" + entry.spec.name)));
  }

  static const testing::ReferenceFile& reference() {
    static const testing::ReferenceFile file(std::string(KOKOMOE_TEST_FOLDER) +
                                             "/reference/encoder_decoder.kkref");
    return file;
  }
  std::string at(const std::string& record) const { return name + "/" + record; }
  double number(const std::string& key) const { return file.scalar(at("config/" + key)); }
  std::unique_ptr<PackedStep> side(const std::string& which) const {
    const auto index = file.i8(at(which + "/sequence_index"));
    auto step = std::make_unique<PackedStep>(
        file.i4(at(which + "/ids")), file.i4(at(which + "/targets")),
        file.i4(at(which + "/offsets")), std::vector<std::uint32_t>(index.begin(), index.end()),
        file.i4(at(which + "/position")));
    step->ctx.seed = static_cast<std::uint64_t>(file.i8(at("config/seed"))[0]);
    step->ctx.step = 0;
    return step;
  }
};

EncoderDecoderConfig small_config(bool post_norm, double dropout) {
  EncoderDecoderConfig c;
  c.vocabulary = 11;
  c.encoder_layers = 2;
  c.decoder_layers = 2;
  c.heads = 2;
  c.max_length = 40;
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

/// Parameters of a size that makes everything matter.
void fill(Rig<double>& rig) {
  Draw draw(31);
  for (const auto& entry : rig.store.entries())
    fill_device(rig.store.value_vector(rig.store.find(entry.spec.name)),
                draw.many<double>(entry.size, 0.6));
}

/// Three pairs, sentences of few and of many tokens on either side.
void make_with_dropout(Rig<double>& rig, bool post_norm) {
  rig.source = std::make_unique<PackedStep>(std::vector<int>{3, 1, 33}, 11, 5);
  rig.target = std::make_unique<PackedStep>(std::vector<int>{2, 35, 1}, 11, 6);
  rig.make(small_config(post_norm, 0.2));
  fill(rig);
}

std::vector<double> row(const std::vector<double>& logits, std::size_t t, std::size_t classes) {
  return {logits.begin() + static_cast<std::ptrdiff_t>(t * classes),
          logits.begin() + static_cast<std::ptrdiff_t>((t + 1) * classes)};
}

}  // namespace

TEST_CASE("an encoder-decoder agrees with the torch reference: logits, losses, every gradient",
          "[model]") {
  for (const char* name : {"post", "pre", "dense"}) {
    INFO("case " << name);
    ReferenceRig<double> c(name);
    CHECK(c.store.entries().size() == c.file.names(c.at("initial/")).size());
    c.source->ctx.training = c.target->ctx.training = false;
    CHECK(worst_error(on_host(c.forward()), c.file.f8(c.at("eval_logits"))) < 1e-12);
    c.source->ctx.training = c.target->ctx.training = true;
    CHECK(worst_error(on_host(c.forward()), c.file.f8(c.at("logits"))) < 1e-12);
    const std::vector<double> losses = c.losses(c.number("label_smoothing"), true);
    for (std::size_t i = 0; i < 3; ++i)
      CHECK(std::abs(losses[i] - c.file.f8(c.at("losses"))[i]) < 1e-12);
    for (const auto& entry : c.store.entries()) {
      INFO(entry.spec.name);
      const std::string record = c.at("gradient/" + entry.spec.name);
      CHECK(c.store.entry(c.store.find(entry.spec.name)).spec.shape == c.file.shape(record));
      CHECK(worst_error(on_host(c.store.gradient_vector(c.store.find(entry.spec.name))),
                        c.file.f8(record), 1e-3) < 1e-12);
    }
  }
}

TEST_CASE("ten updates of an encoder-decoder follow the torch reference", "[model]") {
  for (const char* name : {"post", "pre", "dense"}) {
    INFO("case " << name);
    ReferenceRig<double> c(name);
    const AdamWConfig optimizer{c.number("beta1"), c.number("beta2"), c.number("epsilon"),
                                c.number("weight_decay")};
    const auto all = c.file.f8(c.at("losses")), norms = c.file.f8(c.at("gradient_norms"));
    for (std::size_t s = 0; s < 10; ++s) {
      INFO("step " << s);
      c.source->ctx.step = c.target->ctx.step = s;
      const std::vector<double> losses = c.losses(c.number("label_smoothing"), true);
      for (std::size_t i = 0; i < 3; ++i) CHECK(std::abs(losses[i] - all[3 * s + i]) < 1e-11);
      const double norm = gradient_norm<double>(ExecutionSpace(), c.target->scratch, c.store);
      CHECK(std::abs(norm - norms[s]) < 1e-11);
      adamw_step<double>(ExecutionSpace(), optimizer, c.number("learning_rate"),
                         clip_factor(norm, c.number("clip")), static_cast<std::int64_t>(s) + 1,
                         c.store);
    }
    for (const auto& entry : c.store.entries()) {
      INFO(entry.spec.name);
      CHECK(worst_error(on_host(c.store.value_vector(c.store.find(entry.spec.name))),
                        c.file.f8(c.at("final/" + entry.spec.name)), 1.0) < 1e-9);
    }
  }
}

TEST_CASE("an encoder-decoder's gradients are those of differences, with dropout", "[model]") {
  const bool post_norm = GENERATE(true, false);
  Rig<double> rig;
  make_with_dropout(rig, post_norm);
  rig.losses(0.1, false);
  const auto replay = rig.recorded();
  rig.losses(0.1, true, replay);
  const auto loss = [&]() { return rig.losses(0.1, false, replay)[0]; };
  for (const auto& entry : rig.store.entries()) {
    INFO(entry.spec.name);
    const ParameterHandle handle = rig.store.find(entry.spec.name);
    CHECK(worst_difference(rig.store.value_vector(handle),
                           on_host(rig.store.gradient_vector(handle)), loss, 20) < 1e-6);
  }
}

TEST_CASE("an encoder-decoder whose activations are rounded has nearly its gradients", "[model]") {
  const bool post_norm = GENERATE(true, false);
  Rig<double> rig;
  make_with_dropout(rig, post_norm);
  rig.losses(0.1, false);
  const auto replay = rig.recorded();
  const double whole_loss = rig.losses(0.1, true, replay)[0];
  const std::size_t bytes = rig.target->saved.high_water();
  std::vector<std::vector<double>> whole;
  for (const auto& entry : rig.store.entries())
    whole.push_back(on_host(rig.store.gradient_vector(rig.store.find(entry.spec.name))));

  rig.source->ctx.round_kept = rig.target->ctx.round_kept = true;
  Arena saved("saved");  // its own high water
  rig.target->ctx.saved = &saved;
  const double loss = rig.losses(0.1, true, replay)[0];
  CHECK(saved.high_water() < 0.8 * static_cast<double>(bytes));
  CHECK(loss != whole_loss);
  CHECK(std::abs(loss - whole_loss) < 0.01 * whole_loss);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    const std::string& name = rig.store.entries()[i].spec.name;
    INFO(name);
    CHECK(distance(on_host(rig.store.gradient_vector(rig.store.find(name))), whole[i]) < 0.03);
  }
}

TEST_CASE("a target token sees the whole source and no later target token", "[model]") {
  Rig<double> rig;
  rig.make(small_config(true, 0));
  fill(rig);
  const auto logits = [&](const std::vector<int>& source, const std::vector<int>& target) {
    const auto side = [](const std::vector<int>& ids) {
      std::vector<int> position(ids.size());
      for (std::size_t i = 0; i < ids.size(); ++i) position[i] = static_cast<int>(i);
      auto step =
          std::make_unique<PackedStep>(ids, ids, std::vector<int>{0, static_cast<int>(ids.size())},
                                       std::vector<std::uint32_t>(ids.size(), 3), position);
      step->ctx.training = false;
      return step;
    };
    rig.source = side(source);
    rig.target = side(target);
    return on_host(rig.forward());
  };
  const std::vector<int> source = {1, 2, 3, 4, 5, 6}, target = {7, 8, 9, 1, 2};
  const auto base = logits(source, target);
  for (std::size_t changed = 0; changed < target.size(); ++changed) {
    std::vector<int> other = target;
    other[changed] = 10;
    const auto there = logits(source, other);
    for (std::size_t t = 0; t < target.size(); ++t)
      CHECK((row(there, t, 11) == row(base, t, 11)) == (t < changed));
  }
  for (std::size_t changed = 0; changed < source.size(); ++changed) {
    std::vector<int> other = source;
    other[changed] = 10;
    const auto there = logits(other, target);
    for (std::size_t t = 0; t < target.size(); ++t) CHECK(row(there, t, 11) != row(base, t, 11));
  }
}

TEST_CASE("what a pair gives does not depend on its company in the batch", "[model]") {
  Rig<double> rig;
  rig.make(small_config(false, 0));
  fill(rig);
  const std::vector<int> ids = {4, 2, 9, 9, 1, 3}, other = {5, 7, 7};
  const auto run = [&](bool company) {
    const auto side = [&](const std::vector<int>& first, const std::vector<int>& second) {
      std::vector<int> all, offsets{0}, position;
      std::vector<std::uint32_t> index;
      const auto add = [&](const std::vector<int>& some, std::uint32_t number) {
        for (std::size_t i = 0; i < some.size(); ++i) {
          all.push_back(some[i]);
          position.push_back(static_cast<int>(i));
          index.push_back(number);
        }
        offsets.push_back(static_cast<int>(all.size()));
      };
      if (company) add(second, 8);
      add(first, 5);
      auto step = std::make_unique<PackedStep>(all, all, offsets, index, position);
      step->ctx.training = false;
      return step;
    };
    rig.source = side(ids, other);
    rig.target = side({1, 2, 3}, {6, 6, 6, 6});
    return on_host(rig.forward());
  };
  const auto alone = run(false), together = run(true);
  CHECK(worst_error(std::vector<double>(together.end() - 33, together.end()), alone) < 1e-13);
}

TEST_CASE("decoding with a cache gives what the whole sequence gives", "[model]") {
  Rig<double> rig;
  rig.make(small_config(true, 0));
  fill(rig);
  rig.source = std::make_unique<PackedStep>(std::vector<int>{3, 6}, 11, 5);
  rig.target = std::make_unique<PackedStep>(std::vector<int>{5, 4}, 11, 6);
  rig.source->ctx.training = rig.target->ctx.training = false;
  const std::vector<double> all = on_host(rig.forward());
  const std::vector<int> ids = on_host(rig.target->ctx.tokens.ids);

  rig.source->reset();
  rig.model->encode(rig.source->ctx, rig.saved);
  constexpr int copies = 2;
  const auto caches = rig.model->make_caches(rig.source->ctx, rig.saved, copies, 5);
  // Both sources, each twice side by side; the second has no fifth token.
  for (int t = 0; t < 5; ++t) {
    const int sources = t < 4 ? 2 : 1, rows = sources * copies;
    std::vector<int> here, offsets{0}, position(static_cast<std::size_t>(rows), t);
    for (int b = 0; b < 2 * copies; ++b) {
      if (b < rows) here.push_back(ids[static_cast<std::size_t>(b < copies ? t : 5 + t)]);
      offsets.push_back(static_cast<int>(here.size()));
    }
    PackedStep step(here, here, offsets,
                    std::vector<std::uint32_t>(static_cast<std::size_t>(rows), 3), position);
    step.ctx.training = false;
    const auto logits = on_host(rig.model->forward_cached(step.ctx, rig.saved, caches));
    for (int b = 0; b < rows; ++b) {
      const auto at = static_cast<std::size_t>(b < copies ? t : 5 + t);
      CHECK(worst_error(row(logits, static_cast<std::size_t>(b), 11), row(all, at, 11)) < 1e-12);
    }
  }
}

TEST_CASE("an encoder-decoder refuses what does not fit", "[model]") {
  ParameterStore<double> store;
  EncoderDecoderConfig config = small_config(true, 0);
  config.heads = 3;
  CHECK(message_of<InputError>([&] { EncoderDecoder<double>(config, store); }) ==
        "3 heads do not divide d_model 8");
  Rig<double> rig;
  rig.make(small_config(true, 0));
  rig.source = std::make_unique<PackedStep>(std::vector<int>{3, 6}, 11, 5);
  rig.target = std::make_unique<PackedStep>(std::vector<int>{5}, 11, 6);
  CHECK_THAT(message_of<Error>([&] { rig.forward(); }),
             contains("1 sequences and 2 of the memory"));
  rig.target = std::make_unique<PackedStep>(std::vector<int>{5, 41}, 11, 6);
  CHECK_THAT(message_of<Error>([&] { rig.forward(); }), contains("exceeds the 40 positions"));
}
