// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/activation.hpp"

#include "kokomoe/core/error.hpp"

namespace kokomoe {

Activation parse_activation(const std::string& name) {
  if (name == "relu") return Activation::relu;
  if (name == "gelu") return Activation::gelu;
  if (name == "swiglu") return Activation::swiglu;
  throw InputError("unknown activation \"" + name + "\": choose relu, gelu or swiglu");
}

std::string to_string(Activation activation) {
  switch (activation) {
    case Activation::relu:
      return "relu";
    case Activation::gelu:
      return "gelu";
    default:
      return "swiglu";
  }
}

}  // namespace kokomoe
