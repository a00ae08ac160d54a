#include "cbtm/route/expert_prior.h"

#include <fmt/format.h>

#include <cmath>

namespace cbtm {

Json expert_prior_json(const ExpertPrior& prior) {
  return {{"format", 1},
          {"kind", "expert-prior"},
          {"prior", prior.prior},
          {"likelihood", prior.likelihood},
          {"documents", prior.documents},
          {"documents_hash", prior.documents_hash},
          {"router_hash", prior.router_hash},
          {"experts", prior.experts},
          {"command", prior.command}};
}

ExpertPrior read_expert_prior(const std::filesystem::path& path, int64_t clusters, const std::string& router_hash) {
  const Json json = read_json_file(path);
  const JsonReader read(json, path.string(), "fit it again with 'cbtm ensemble prior'");
  if (read.text_or("kind", "") != "expert-prior") read.refuse("is no prior of cbtm");
  if (read.integer_or("format", 1) != 1) read.at("format").refuse("must be 1, the only one that this cbtm knows");
  ExpertPrior prior;
  const JsonReader list = read.list("prior");
  double sum = 0;
  for (size_t j = 0; j < list.size(); ++j) sum += prior.prior.emplace_back(list.item(j).as_number(0, 1));
  if (static_cast<int64_t>(prior.prior.size()) != clusters)
    list.refuse(fmt::format("has {} entries, but the router has {} clusters", prior.prior.size(), clusters));
  constexpr double kRounding = 1e-6;
  if (!(std::abs(sum - 1) < kRounding)) list.refuse(fmt::format("has the sum {}, not 1", sum));
  prior.router_hash = read.text_or("router_hash", "");
  if (prior.router_hash != router_hash)
    read.at("router_hash").refuse(fmt::format("is {}, but the experts' router is {}", prior.router_hash, router_hash));
  prior.documents_hash = read.text_or("documents_hash", "");
  prior.experts = read.has("experts") ? read.texts("experts") : std::vector<std::string>();
  prior.documents = read.integer_or("documents", 0, 0);
  prior.likelihood = read.text_or("likelihood", "last");
  prior.command = read.text_or("command", "");
  return prior;
}

}  // namespace cbtm
