#include "cbtm/base/error.h"
#include "commands/commands.h"

namespace cbtm {

int run_train_seed(int, char**) { fail("train_seed: not built yet"); }

}  // namespace cbtm
