#include "cbtm/route/router_spec.h"

#include <doctest/doctest.h>

#include <fstream>

#include "cbtm/base/error.h"
#include "cbtm/route/expert_prior.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

TEST_CASE("routers on the command line") {
  const std::vector<RouterSpec> specs = parse_router_specs(
      "tfidf:power=4:temperature=0.05:topk=3,posterior,posterior:last:prior=updating,"
      "posterior:prior=a/b.json:last:topk=all:first=all,uniform");
  REQUIRE(specs.size() == 5);
  CHECK(specs[0].kind == RouterKind::tfidf);
  CHECK(specs[0].distance_power == 4);
  CHECK(specs[0].temperature == 0.05);
  CHECK(specs[0].top_k == 3);
  CHECK(specs[1].kind == RouterKind::posterior);
  CHECK(specs[1].likelihood == Likelihood::exact);
  CHECK(!specs[1].takes_top_k());
  CHECK(specs[2].likelihood == Likelihood::last);
  CHECK(specs[2].updating);
  CHECK(specs[3].prior == "a/b.json");
  CHECK(specs[3].top_k == 0);
  CHECK(specs[3].first_from_all);
  CHECK(specs[3].takes_top_k());
  CHECK(specs[4].kind == RouterKind::uniform);
  CHECK(specs[4].text == "uniform");
  CHECK(names_router_kind("posterior:last"));
  CHECK(names_router_kind("tfidf,uniform"));
  for (const char* directory : {"run/router", "./uniform", "uniforms", "", ":"}) CHECK(!names_router_kind(directory));
}

TEST_CASE("routers that cannot be") {
  for (const auto& [text, expected] : std::vector<std::pair<const char*, const char*>>{
           {"", "no kind of router"},
           {"tfidf,", "'' is no kind of router"},
           {"bayes", "'bayes' is no kind of router (tfidf, prefix, posterior or uniform)"},
           {"tfidf:power=3", "'power=3' must be power=2 or power=4"},
           {"tfidf:temperature=0", "must be a positive number"},
           {"tfidf:temperature=", "must be a positive number"},
           {"tfidf:topk=0", "must be a number from 1, or all"},
           {"tfidf:topk=99999999999999999999", "must be a number from 1, or all"},
           {"tfidf:last", "'last' is unknown; tfidf has"},
           {"tfidf:power=2:power=4", "is there twice"},
           {"tfidf:", "'' is unknown"},
           {"posterior:exact:last", "is one too many"},
           {"posterior:exact=1", "'exact=1' is unknown"},
           {"posterior:prior=", "must be uniform, updating or a file"},
           {"posterior:topk=2", "needs a prior from a file"},
           {"posterior:last:prior=updating:topk=2", "needs a prior from a file"},
           {"posterior:prior=p.json:first=all", "is an option of posterior:last"},
           {"posterior:last:first=all", "does nothing where no expert is cut"},
           {"posterior:first=some", "must be first=kept or first=all"},
           {"uniform:topk=2", "uniform has no options"},
           {"uniform,uniform", "'uniform' is there twice"}}) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(parse_router_specs(text), doctest::Contains(expected), Error);
  }
}

TEST_CASE("a prior's file: read as written; what does not fit is refused with its key") {
  const TemporaryDirectory directory;
  const std::filesystem::path path = directory / "prior.json";
  const ExpertPrior prior{.prior = {0.25, 0, 0.75},
                          .router_hash = "abc",
                          .documents_hash = "def",
                          .experts = {"000", "", "002"},
                          .documents = 7,
                          .likelihood = "exact",
                          .command = "cbtm ensemble prior"};
  write_json_file(path, expert_prior_json(prior));
  const ExpertPrior read = read_expert_prior(path, 3, "abc");
  CHECK(expert_prior_json(read) == expert_prior_json(prior));
  const auto refused = [&](Json change, const char* expected, int64_t clusters = 3) {
    Json json = expert_prior_json(prior);
    json.update(change);
    write_json_file(path, json);
    CHECK_THROWS_WITH_AS(read_expert_prior(path, clusters, "abc"), doctest::Contains(expected), Error);
  };
  refused(Json::object(), "'prior' has 3 entries, but the router has 4 clusters", 4);
  refused({{"router_hash", "other"}}, "'router_hash' is other, but the experts' router is abc");
  refused({{"router_hash", nullptr}}, "router_hash");
  refused({{"prior", {0.5, 0.2, 0.2}}}, "has the sum 0.8");
  refused({{"prior", {0.5, -0.5, 1.0}}}, "'prior[1]'");
  refused({{"prior", "all"}}, "'prior'");
  refused({{"kind", "router"}}, "is no prior of cbtm");
  std::ofstream(path) << "[]";
  CHECK_THROWS_AS(read_expert_prior(path, 3, "abc"), Error);
}

}  // namespace
}  // namespace cbtm
