// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/data/tokenizer.hpp"

#include "data/text_file.hpp"
#include "data/tokenizers.hpp"
#include "io/digest.hpp"
#include "io/files.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/parallel/agree.hpp"

#include <filesystem>

namespace kokomoe {

namespace {

/// The model's bytes: from its file, from the cache, or newly trained.
std::string sentencepiece_model(const TokenizerOptions& options, std::vector<std::string>* notes) {
  if (!options.model.empty()) return std::string(detail::open_text(options.model).text());
  if (options.training_files.empty())
    throw InputError("the SentencePiece tokenizer needs a model or files to train on");
  detail::StreamDigest digest;
  const std::string recipe = "unigram/1/" + std::to_string(options.vocabulary);
  digest.add(recipe.data(), recipe.size());
  for (const std::string& path : options.training_files) {
    const detail::MappedFile file = detail::open_text(path);
    const std::string form =
        detail::differs_in_form(file.text(), options.training_form) ? "lines" : "";
    const std::string size = form + "/" + std::to_string(file.size()) + "/";
    digest.add(size.data(), size.size());
    digest.add(file.data(), file.size());
  }
  detail::TrainingLines lines(options.training_files, options.training_form,
                              options.training_lines);
  if (lines.taken() < lines.lines()) {
    const std::string part = "/lines/" + std::to_string(lines.taken());
    digest.add(part.data(), part.size());
    if (notes != nullptr)
      notes->push_back("the vocabulary comes from " + std::to_string(lines.taken()) + " of " +
                       std::to_string(lines.lines()) +
                       " lines of the text, as data/vocabulary_lines says");
  }
  const std::string cached =
      options.cache_folder.empty()
          ? ""
          : options.cache_folder + "/sentencepiece-" + detail::hex(digest.value()) + ".model";
  std::error_code ignored;
  if (!cached.empty() && std::filesystem::exists(cached, ignored)) {
    const std::string model(detail::MappedFile(cached).text());
    try {
      detail::sentencepiece_tokenizer(model, cached);
      return model;
    } catch (const InputError&) {
      // A damaged cache is made anew.
    }
  }
  // Before the work whose result goes there.
  if (!cached.empty()) detail::make_writable_folder(options.cache_folder, "cache folder");
  const std::string model = detail::train_sentencepiece(lines, options.vocabulary);
  if (!cached.empty()) detail::replace_file_with(cached, model);
  return model;
}

}  // namespace

std::shared_ptr<const Tokenizer> make_tokenizer(const TokenizerOptions& options,
                                                const Communicator& communicator,
                                                std::vector<std::string>* notes) {
  if (options.kind != "sentencepiece") return make_tokenizer_from(options.kind, "");
  std::string model;
  run_on_root(communicator, [&] {
    model = sentencepiece_model(options, notes);
    detail::sentencepiece_tokenizer(model, options.model.empty() ? "trained model" : options.model);
  });
  return make_tokenizer_from(options.kind, communicator.broadcast(model));
}

std::shared_ptr<const Tokenizer> make_tokenizer_from(const std::string& kind,
                                                     const std::string& serialized) {
  if (kind == "bytes") return detail::byte_tokenizer();
  if (kind == "sentencepiece") return detail::sentencepiece_tokenizer(serialized, "tokenizer");
  throw InputError("unknown tokenizer \"" + kind + "\": use \"bytes\" or \"sentencepiece\"");
}

}  // namespace kokomoe
