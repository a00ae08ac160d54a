// Indexed datasets: shard.idx and shard.bin.

#include <algorithm>

#include "cbtm/base/error.h"
#include "cbtm/dataset/indexed_dataset.h"
#include "tests/fuzz/input_files.h"
#include "tests/fuzz/target.h"

namespace cbtm::fuzz {
namespace {

void read(std::string_view input) {
  const InputFiles files(input, {"shard.idx", "shard.bin"});
  const IndexedDataset dataset(files / "shard");
  int64_t tokens = 0;
  for (int64_t number = 0; number < dataset.sequences(); ++number) {
    CBTM_ASSERT(static_cast<int64_t>(dataset.sequence(number).size()) == dataset.length(number),
                "what it says it holds");
    CBTM_ASSERT(dataset.first_token(number) == tokens, "sequences follow one another");
    tokens += dataset.length(number);
  }
  CBTM_ASSERT(tokens == dataset.tokens(), "what it says it holds");
  std::vector<int32_t> all(static_cast<size_t>(tokens));
  dataset.read(0, all);
  dataset.check_ids(1000);
}

const Registration kRegistration{{"dataset", read}};

}  // namespace
}  // namespace cbtm::fuzz
