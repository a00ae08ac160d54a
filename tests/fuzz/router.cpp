// A router: router.json and router.safetensors, then routing a text with it.

#include <cmath>
#include <numeric>
#include <vector>

#include "cbtm/base/error.h"
#include "cbtm/cluster/tfidf_router.h"
#include "tests/fuzz/input_files.h"
#include "tests/fuzz/repair.h"
#include "tests/fuzz/target.h"

namespace cbtm::fuzz {
namespace {

void read(std::string_view input) {
  const InputFiles files(input, {"router.json", "router.safetensors"});
  const TfidfRouter router = TfidfRouter::load(files.path());
  const std::string text = "The alpha of beta, gamma-delta; ALPHA's na\xC3\xAFve \xF0\x9F\x98\x80 ca";
  std::vector<float> embedding(static_cast<size_t>(router.dimensions()));
  std::vector<double> distances(static_cast<size_t>(router.clusters())), weights(distances.size());
  router.embed(text, embedding);
  router.squared_distances(embedding, distances);
  routing_weights(distances, router.defaults(), {}, weights);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  CBTM_ASSERT(std::abs(sum - 1) < 1e-6, "experts are mixed by weights that add up to 1");
  const std::unique_ptr<RoutingContext> context = router.context();
  for (const char byte : text) context->append({&byte, 1});
  context->squared_distances(distances);
  router.save(files / "saved");
}

const Registration kRegistration{{"router", read, repair_parts}};

}  // namespace
}  // namespace cbtm::fuzz
