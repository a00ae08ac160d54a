#include "cbtm/base/error.h"
#include "commands/commands.h"

namespace cbtm {

int run_cluster(int, char**) { fail("cluster: not built yet"); }

}  // namespace cbtm
