#pragma once

#include "cbtm/route/router.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

/// The router reads the text of the tokens: special tokens are no text.
inline void append_token(const Tokenizer& tokenizer, int32_t id, RoutingContext& context) {
  context.append_token(id, tokenizer.is_special(id) ? std::string_view() : tokenizer.bytes_of(id));
}

}  // namespace cbtm
