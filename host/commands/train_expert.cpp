#include "cbtm/base/error.h"
#include "commands/commands.h"

namespace cbtm {

int run_train_expert(int, char**) { fail("train_expert: not built yet"); }

}  // namespace cbtm
