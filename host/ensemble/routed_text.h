#pragma once

#include "cbtm/cluster/router.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

/// The router reads the text of the tokens: special tokens are no text.
inline void append_token(const Tokenizer& tokenizer, int32_t id, RoutingContext& context) {
  if (!tokenizer.is_special(id)) context.append(tokenizer.bytes_of(id));
}

}  // namespace cbtm
