#include "cbtm/base/error.h"
#include "commands/commands.h"

namespace cbtm {

int run_tokenizer(int, char**) { fail("tokenizer: not built yet"); }

}  // namespace cbtm
