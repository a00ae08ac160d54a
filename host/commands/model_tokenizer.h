#pragma once

#include <filesystem>
#include <optional>

#include "cbtm/model/expert_card.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

/// Throws Error if the model's card says that it was trained with another tokenizer: its ids would mean other texts.
void check_tokenizer(const std::filesystem::path& model, const std::optional<ExpertCard>& card,
                     const Tokenizer& tokenizer);

}  // namespace cbtm
