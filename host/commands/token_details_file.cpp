#include "commands/token_details_file.h"

#include "cbtm/base/json.h"

namespace cbtm {
namespace {

/// [targets, clusters] as a list of lists; NaN as null.
Json rows_of(const std::vector<double>& values, size_t targets) {
  Json rows = Json::array();
  const auto columns = static_cast<int64_t>(targets > 0 ? values.size() / targets : 0);
  for (int64_t t = 0; t < static_cast<int64_t>(targets); ++t)
    rows.push_back(std::vector<double>(values.begin() + t * columns, values.begin() + (t + 1) * columns));
  return rows;
}

}  // namespace

void check_token_details(const CommandLine& line) {
  if (!line.given("token-log-probs")) return;
  check_writable(line.path("token-log-probs"), OutputKind::token_details);
  line.check_no_input(line.path("token-log-probs"), "token-log-probs");
}

TokenDetailsFile::TokenDetailsFile(const CommandLine& line, EvaluationOptions& options) {
  if (!line.given("token-log-probs")) return;
  file_.emplace(line.path("token-log-probs"));
  const auto& routers = options.routers;
  if (!routers.empty()) {
    options.detailed.clear();
    for (size_t r = 0; r < routers.size(); ++r)
      if (r == 0 || routers[r]->name() != routers[r - 1]->name()) options.detailed.push_back(r);
  }
  options.token_details = [this, routers](const EvaluationDocument& document, const TokenDetails& details) {
    const size_t targets = details.log_probabilities.size();
    Json one = {{"id", document.id},
                {"log_probabilities", details.log_probabilities},
                {"weights", rows_of(details.weights, targets)}};
    if (!routers.empty()) {
      one["router"] = routers[details.score]->name();
      one["top_k"] = routers[details.score]->top_k();
      one["log_probabilities_by_expert"] = rows_of(details.expert_log_probabilities, targets);
      if (!details.prior.empty()) one["prior"] = details.prior;
      if (!details.prior_after.empty()) one["prior_after"] = details.prior_after;
    }
    file_->write(one.dump() + "\n");
  };
}

void TokenDetailsFile::commit() {
  if (file_) file_->commit();
}

}  // namespace cbtm
