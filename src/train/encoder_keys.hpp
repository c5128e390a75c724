// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/deck.hpp"
#include "kokomoe/model/encoder.hpp"
#include "kokomoe/train/train_config.hpp"

#include <string>
#include <vector>

namespace kokomoe::detail {

/// model/* of an encoder, as ELECTRA's discriminator is.
void add_encoder_keys(Schema& schema);
/// The same with moe/*; refuses what cannot be. The vocabulary is left open.
EncoderConfig read_encoder(const Deck& deck, std::vector<std::string>& notes);
/// Refuses what tasks of encoders do not have: smoothed labels, and layout-free sums.
void refuse_for_encoders(const Deck& deck, const TrainConfig& config);

}  // namespace kokomoe::detail
