// x_cbtm.coefficients: products of the experts' probabilities; and the best of several texts.

#include <algorithm>
#include <cmath>

#include "cbtm/base/error.h"
#include "tests/serve/served_run.h"

namespace cbtm {
namespace {

const ServedRun& server() {
  static const ServedRun served;
  return served;
}

/// Log-probabilities of the 100 most likely tokens after a prompt, by name.
std::map<std::string, double> distribution(const std::string& model, const Json& coefficients) {
  Json body = {{"model", model}, {"prompt", "comet orbit"}, {"max_tokens", 1}, {"temperature", 0}, {"logprobs", 100}};
  if (!coefficients.is_null()) body["x_cbtm"] = {{"coefficients", coefficients}};
  return server().complete(body)["choices"][0]["logprobs"]["top_logprobs"][0].get<std::map<std::string, double>>();
}

TEST_CASE("a product of experts: differences of its log-probabilities are weighted sums of theirs") {
  const std::map<std::string, double> coefficients = {{"000", 1.25}, {"002", -0.1}};
  const auto product = distribution("ensemble", coefficients);
  const auto first = distribution("expert-000", nullptr), second = distribution("expert-002", nullptr);
  std::vector<double> shifts;
  for (const auto& [token, value] : product)
    if (first.contains(token) && second.contains(token))
      shifts.push_back(value - (1.25 * first.at(token) - 0.1 * second.at(token)));
  REQUIRE(shifts.size() > 5);
  // Float32 values of some 10 in size: each is off by 1e-6 of it at most, and so are the three together by 1e-4.
  for (const double shift : shifts) CHECK(std::abs(shift - shifts.front()) < 1e-4);
  const auto alone = distribution("ensemble", {{"000", 1}});
  for (const auto& [token, value] : first) CHECK(alone.at(token) == doctest::Approx(value).epsilon(1e-4));
}

TEST_CASE("coefficients: the same text alone, streamed, and on the command line; echo and weights know them") {
  Json body = {{"prompt", "comet orbit flour"},
               {"max_tokens", 12},
               {"seed", 7},
               {"top_p", 0.9},
               {"logprobs", 2},
               {"ignore_eos", true},
               {"x_cbtm", {{"coefficients", {{"000", 1}, {"expert-002", -0.5}}}, {"weights", true}}}};
  const Json reply = server().complete(body);
  const Json& choice = reply["choices"][0];
  succeed(run_cbtm({"ensemble", "generate", "--experts", "run/experts", "--threads", "1", "--prompt",
                    "comet orbit flour", "--json", "generated.json", "--coefficients", "000=1,002=-0.5", "--seed", "7",
                    "--sampling-top-p", "0.9", "--max-new-tokens", "12", "--ignore-eos"},
                   trained_run()));
  CHECK(choice["text"] == read_json_file(trained_run() / "generated.json")["text"][0]);
  for (const Json& token : choice["x_cbtm"]["tokens"]) CHECK(token["weights"] == Json{{"000", 1.0}, {"002", -0.5}});
  // Shares by size.
  CHECK(reply["x_cbtm"]["expert_tokens"]["000"].get<double>() == doctest::Approx(8));
  CHECK(reply["x_cbtm"]["expert_tokens"]["002"].get<double>() == doctest::Approx(4));
  body["stream"] = true;
  std::string streamed;
  for (const Json& event : events_of(server().post("/v1/completions", body).body))
    streamed += event["choices"][0]["text"].get<std::string>();
  CHECK(streamed == choice["text"]);
  body["stream"] = false;
  body["echo"] = true;
  const Json echoed = server().complete(body)["choices"][0]["logprobs"];
  const size_t prompt = echoed["tokens"].size() - 12;
  for (size_t t = 0; t < 12; ++t)
    CHECK(echoed["token_logprobs"][prompt + t] == choice["logprobs"]["token_logprobs"][t]);
  // The text as a prompt: its tokens are as likely as when they were generated, but for the order of sums.
  const Json scored = server().complete({{"prompt", "comet orbit flour"},
                                         {"max_tokens", 0},
                                         {"echo", true},
                                         {"logprobs", 0},
                                         {"x_cbtm", {{"coefficients", {{"000", 1}, {"002", -0.5}}}}}});
  const Json& again = scored["choices"][0]["logprobs"]["token_logprobs"];
  for (size_t t = 1; t < prompt; ++t) CHECK(again[t] == echoed["token_logprobs"][t]);
}

TEST_CASE("coefficients on the command line: what is wrong is said") {
  const auto refused = [](const std::vector<std::string>& flags, const std::string& what) {
    std::vector<std::string> words = {"ensemble", "generate", "--experts", "run/experts", "--prompt", "comet"};
    words.insert(words.end(), flags.begin(), flags.end());
    const Outcome outcome = run_cbtm(words, trained_run());
    CAPTURE(outcome.errors);
    CHECK(outcome.exit_code == kExitUsage);
    CHECK(outcome.errors.find(what) != std::string::npos);
  };
  refused({"--coefficients", "000"}, "000=1,002=-0.5");
  refused({"--coefficients", "000=x"}, "000=1,002=-0.5");
  refused({"--coefficients", "009=1"}, "no expert '009'");
  refused({"--coefficients", "000=0"}, "all are 0");
  refused({"--coefficients", "000=1", "--topk", "1"}, "--topk");
}

TEST_CASE("best_of: the texts of the highest mean log-probability, the best first") {
  Json body = {{"prompt", Json::array({"comet orbit", "flour oven"})},
               {"max_tokens", 8},
               {"seed", 11},
               {"temperature", 1.5},
               {"logprobs", 0},
               {"n", 5}};
  const Json all = server().complete(body);
  const auto mean = [](const Json& choice) {
    double sum = 0;
    for (const Json& value : choice["logprobs"]["token_logprobs"]) sum += value.get<double>();
    return sum / static_cast<double>(choice["logprobs"]["token_logprobs"].size());
  };
  body["n"] = 2;
  body["best_of"] = 5;
  const Json best = server().complete(body);
  REQUIRE(best["choices"].size() == 4);
  for (size_t prompt = 0; prompt < 2; ++prompt) {
    std::vector<Json> wanted(all["choices"].begin() + static_cast<int>(prompt) * 5,
                             all["choices"].begin() + static_cast<int>(prompt) * 5 + 5);
    std::ranges::stable_sort(wanted, [&](const Json& a, const Json& b) { return mean(a) > mean(b); });
    for (size_t i = 0; i < 2; ++i) {
      const Json& got = best["choices"][prompt * 2 + i];
      CHECK(got["index"] == prompt * 2 + i);
      CHECK(got["text"] == wanted[i]["text"]);
      CHECK(got["logprobs"] == wanted[i]["logprobs"]);
    }
  }
  CHECK(best["usage"]["completion_tokens"] == all["usage"]["completion_tokens"]);  // of all that were generated
  body.erase("logprobs");
  const Json plain = server().complete(body);
  for (size_t i = 0; i < 4; ++i) {
    CHECK(plain["choices"][i]["text"] == best["choices"][i]["text"]);
    CHECK(plain["choices"][i]["logprobs"].is_null());
  }
}

}  // namespace
}  // namespace cbtm
