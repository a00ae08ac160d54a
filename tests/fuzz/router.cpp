// A router: router.json and router.safetensors, then routing a text with it.

#include "cbtm/cluster/router.h"

#include <vector>

#include "tests/fuzz/input_files.h"
#include "tests/fuzz/repair.h"
#include "tests/fuzz/target.h"

namespace cbtm::fuzz {
namespace {

void read(std::string_view input) {
  const InputFiles files(input, {"router.json", "router.safetensors"});
  const Router router = Router::load(files.path());
  const std::string text = "The alpha of beta, gamma-delta; ALPHA's na\xC3\xAFve \xF0\x9F\x98\x80 ca";
  std::vector<float> embedding(static_cast<size_t>(router.dimensions()));
  std::vector<double> distances(static_cast<size_t>(router.clusters())), weights(distances.size());
  router.embed(text, embedding);
  router.squared_distances(embedding, distances);
  routing_weights(
      distances,
      {.top_k = 2, .temperature = router.parts().temperature, .distance_power = router.parts().distance_power}, {},
      weights);
  RoutingContext context(router);
  for (const char byte : text) context.append({&byte, 1});
  context.squared_distances(distances);
  router.save(files / "saved");
}

const Registration kRegistration{{"router", read, repair_parts}};

}  // namespace
}  // namespace cbtm::fuzz
