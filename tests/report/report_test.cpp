#include "cbtm/report/report.h"

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/run/stage_summary.h"
#include "tests/report/well_formed.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

/// A finished run of two experts, written by hand.
class ExampleRun {
 public:
  ExampleRun() : run(directory / "a & <b>") {
    write_json_file(
        run.clusters_json(),
        {{"clusters", 2},
         {"documents", 1234},
         {"corpus", {{"text_bytes", 5'000'000}, {"duplicates", 7}, {"empty", 1}, {"broken_lines", 2}}},
         {"balance", 1.25},
         {"objective", 321.5},
         {"duality_gap", 0.0},
         {"router_hash", "r"},
         {"sizes",
          {{{"train_documents", 700}, {"train_tokens", 3000}, {"valid_documents", 1}, {"tune_documents", 1}},
           {{"train_documents", 500}, {"train_tokens", 1000}, {"valid_documents", 2}, {"tune_documents", 1}}}},
         {"top_terms", Json::array({Json::array({"boost", "<script>alert(1)</script>"}), Json::array({"der", "die"})})},
         {"map", {{0.1, 0.2, 0}, {0.3, 0.1, 0}, {-0.5, 0.4, 1}}}});
    model(run.seed(), 4096, 2.0, -1);
    model(run.baseline(), 8192, 1.0, -1);
    model(run.expert(0), 4096, 0.9, 0);
    model(run.expert(1), 4096, 0.8, 1);
    write_json_file(run.seed() / "config.json", {{"model_type", "opt"},
                                                 {"vocab_size", 1000},
                                                 {"hidden_size", 64},
                                                 {"num_hidden_layers", 2},
                                                 {"num_attention_heads", 2},
                                                 {"ffn_dim", 256},
                                                 {"max_position_embeddings", 128}});
    write_file_atomically(run.shard(0) / "valid.documents.jsonl", "{\"id\":\"a\",\"tokens\":11}\n");
    write_file_atomically(run.shard(1) / "valid.documents.jsonl",
                          "{\"id\":\"b\",\"tokens\":11}\n{\"id\":\"c\",\"tokens\":1}\n");
    write_json_file(run.evaluation() / "seed.json", evaluation(90.0, 4.5));
    write_json_file(run.evaluation() / "baseline.json", evaluation(50.0, 3.912023));
    Json ensemble = evaluation(52.0, 3.951244);
    ensemble["settings"]["top_k"] = {1, 2};
    ensemble["settings"]["router_temperature"] = 0.05;
    ensemble["settings"]["router_hash"] = "r";
    ensemble["sweep"] = {{{"top_k", 1}, {"perplexity", 52.0}},
                         {{"top_k", 2}, {"perplexity", 47.5}},
                         {{"top_k", 2}, {"perplexity", 47.5}}};
    ensemble["matrix"] = {{40.25, 99.75}, {120.5, nullptr}};
    write_json_file(run.evaluation() / "ensemble.json", ensemble);
    write_json_file(run.evaluation() / "curve.json",
                    {{"points",
                      {{{"step", 1}, {"tokens", 4096}, {"dense", 60.0}, {"top_1", 66.0}, {"all", 60.6}},
                       {{"step", 2}, {"tokens", 8192}, {"dense", 50.0}, {"top_1", 52.0}, {"all", 47.5}}}}});
    for (const char* name : {"cluster", "seed", "baseline", "expert/000", "expert/001"})
      record_stage(run, {.name = name,
                         .settings = {{"k", 2}},
                         .inputs = Json::object(),
                         .command = "cbtm run --k 2 > \"log\"",
                         .seconds = 61});
  }

  std::string page() const {
    write_report(run);
    std::ifstream file(run.report());
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }

  TemporaryDirectory directory;
  RunDirectory run;

 private:
  static Json evaluation(double perplexity, double nats) {
    Json documents = Json::array();
    for (const char* id : {"a", "b", "c"})
      documents.push_back({{"id", id}, {"tokens", 10}, {"negative_log_likelihood", 10 * nats}});
    return {{"perplexity", perplexity},
            {"tokens", 30},
            {"documents", documents},
            {"settings", {{"documents", {{"split", "valid"}}}}}};
  }

  static void model(const std::filesystem::path& directory, int64_t tokens, double loss, int64_t cluster) {
    Json card = {
        {"settings", {{"steps", 2}, {"sequence_length", 64}, {"batch_sequences", 32}, {"learning_rate", 0.00123}}},
        {"training", {{"tokens", tokens}, {"skipped_steps", 0}, {"training_seconds", 3.0}}}};
    if (cluster >= 0) card["cluster"] = cluster;
    write_json_file(directory / "expert.json", card);
    std::string metrics = "{\"step\":0,\"tokens\":0,\"validation_loss\":3}\n";
    for (int step = 1; step <= 2; ++step)
      metrics +=
          Json{{"step", step}, {"tokens", tokens * step / 2}, {"loss", loss + 1.0 / step}, {"validation_loss", loss}}
              .dump() +
          "\n";
    write_file_atomically(directory / "metrics.jsonl", metrics + "{\"step\":3,\"tok");
  }
};

bool has(const std::string& page, const std::string& part) { return page.find(part) != std::string::npos; }

TEST_CASE("the report of a finished run shows its numbers") {
  const ExampleRun example;
  const std::string page = example.page();
  CHECK(markup_fault(page) == "");
  CHECK(!has(page, "What is missing"));
  CHECK(has(page,
            "With all 2 experts the ensemble reaches a perplexity of 47.50 on held-out documents: 5.0 % lower than "
            "the dense model's 50.00."));
  CHECK(has(page, "<td>52.00</td><td>+4.0 %</td>"));
  CHECK(has(page, "<td>47.50</td><td>−5.0 %</td>"));
  CHECK(has(page, "equal compute"));
  CHECK(!has(page, "not equal compute"));
  CHECK(has(page, "1,234 documents, 5MB of text; 7 duplicates and 3 bad documents left out"));
  CHECK(has(page, "75.0 %"));
  CHECK(has(page, "der die"));
  CHECK(has(page, "<td>0.00123</td>"));
  CHECK(has(page, "cbtm run --k 2 &gt; &quot;log&quot;"));
  CHECK(occurrences(page, "cbtm run --k 2") == 1);  // typed once, shown once
  CHECK(has(page, "2 experts (the longest 1:01)"));
}

TEST_CASE("the charts of the report hold as many points as there are data") {
  const ExampleRun example;
  const std::string page = example.page();
  const std::string_view map = between(page, "class=\"chart map\"", "</svg>");
  CHECK(occurrences(map, "M") == 3 + 1);  // and the M of "Map of 3 documents"
  const std::string_view sweep = between(page, "id=\"sweep\"", "</svg>");
  CHECK(occurrences(between(sweep, "class=\"point ensemble\"", "/>"), "M") == 2);
  CHECK(occurrences(sweep, "class=\"value\"") == 2);
  const std::string_view training = between(page, "id=\"training\"", "</svg>");
  CHECK(occurrences(between(training, "class=\"point dense\"", "/>"), "M") == 3);
  CHECK(occurrences(training, "class=\"line ") == 3);
  const std::string_view budget = between(page, "id=\"budget\"", "</svg>");
  CHECK(occurrences(budget, "class=\"line ") == 3);
  CHECK(has(std::string(budget), "top-1: +4.0 % against dense at the end"));
}

TEST_CASE("the matrix marks the best of each column and compares with dense and ensemble by cluster") {
  const ExampleRun example;
  const std::string page = example.page();
  const std::string matrix(between(page, "id=\"matrix\"", "</section>"));
  CHECK(has(matrix, "<td class=\"best\" style=\"--near:1.00\">40.25</td>"));
  CHECK(has(matrix, "<td class=\"best\" style=\"--near:1.00\">99.75</td>"));
  CHECK(has(matrix, "On 1 of 2 clusters"));
  CHECK(has(matrix, "<td>–</td>"));
  CHECK(has(matrix, "dense</th><td>50.00</td><td>50.00</td>"));
  CHECK(has(matrix, "ensemble, top-1</th><td>52.00</td><td>52.00</td>"));
}

TEST_CASE("a matrix too large to read is summed up") {
  const ExampleRun example;
  Json ensemble = read_json_file(example.run.evaluation() / "ensemble.json");
  ensemble["matrix"] = Json::array();
  for (size_t expert = 0; expert < 129; ++expert) {
    Json row = std::vector<double>(129, 70.25);
    row[expert] = 60.5;
    ensemble["matrix"].push_back(row);
  }
  write_json_file(example.run.evaluation() / "ensemble.json", ensemble);
  const std::string page = example.page();
  CHECK(markup_fault(page) == "");
  CHECK(has(page, "On 129 of 129 clusters"));
  CHECK(!has(page, "60.50"));
}

TEST_CASE("nothing from the run becomes markup, and nothing is loaded from elsewhere") {
  const ExampleRun example;
  const std::string page = example.page();
  CHECK(has(page, "boost &lt;script&gt;alert(1)&lt;/script&gt;"));
  CHECK(has(page, "<title>a &amp; &lt;b&gt; · cbtm</title>"));
  for (const char* part : {"<script", "<link", "<img", "<iframe", " src=", "http:", "https:", "url(", "@import"})
    CHECK_MESSAGE(!has(page, part), part);
}

TEST_CASE("the same run gives the same page") {
  const ExampleRun example;
  CHECK(example.page() == example.page());
}

TEST_CASE("a run that is not finished is shown as far as it goes") {
  const ExampleRun example;
  const auto remove = [&](const std::filesystem::path& path) { std::filesystem::remove_all(path); };
  SUBCASE("without ensemble evaluation") {
    remove(example.run.evaluation() / "ensemble.json");
    const std::string page = example.page();
    CHECK(markup_fault(page) == "");
    CHECK(has(page, "The ensemble has not been evaluated yet."));
    CHECK(has(page, "evaluation/ensemble.json: the ensemble was not evaluated"));
    CHECK(!has(page, "id=\"matrix\""));
    CHECK(has(page, "id=\"training\""));
  }
  SUBCASE("without an expert") {
    remove(example.run.expert(1));
    const std::string page = example.page();
    CHECK(markup_fault(page) == "");
    CHECK(has(page, "experts/: 1 of 2 experts are not there (001)"));
    CHECK(has(page, "not equal compute"));
  }
  SUBCASE("without a dense model") {
    remove(example.run.baseline());
    remove(example.run.evaluation() / "baseline.json");
    const std::string page = example.page();
    CHECK(markup_fault(page) == "");
    CHECK(has(page, "there is no dense model to compare it with"));
    CHECK(!has(page, "nan"));
  }
  SUBCASE("with damaged files") {
    write_file_atomically(example.run.clusters_json(), "{\"clusters\": ");
    write_file_atomically(example.run.evaluation() / "seed.json", "[]");
    const std::string page = example.page();
    CHECK(markup_fault(page) == "");
    CHECK(has(page, "clusters.json"));
    CHECK(has(page, "it is not a JSON object"));
    CHECK(has(page, "id=\"sweep\""));
  }
  SUBCASE("with a model's card that was changed") {
    Json card = read_json_file(example.run.baseline() / "expert.json");
    card["card_hash"] = "0";
    write_json_file(example.run.baseline() / "expert.json", card);
    const std::string page = example.page();
    CHECK(markup_fault(page) == "");
    CHECK(has(page, "baseline/expert.json: was changed after cbtm wrote it"));
  }
  SUBCASE("with values of other types") {
    write_json_file(example.run.clusters_json(),
                    {{"clusters", "two"}, {"sizes", 3}, {"top_terms", {1}}, {"map", {{"x", 1, 2}}}});
    write_json_file(example.run.evaluation() / "ensemble.json",
                    {{"perplexity", {}}, {"sweep", "no"}, {"matrix", {1, {"a", 0, -1}}}, {"documents", 5}});
    write_json_file(example.run.evaluation() / "curve.json",
                    {{"points", {1, {{"tokens", 1}, {"dense", 0}, {"all", 2}}}}});
    CHECK(markup_fault(example.page()) == "");
  }
  SUBCASE("with nothing") {
    for (const auto& entry : std::filesystem::directory_iterator(example.run.root())) remove(entry.path());
    const std::string page = example.page();
    CHECK(markup_fault(page) == "");
    CHECK(has(page, "clusters.json: the corpus has not been clustered"));
  }
}

TEST_CASE("a mixture of experts stands beside the dense model, with its cost, its load and what it dropped") {
  const ExampleRun example;
  CHECK(!has(example.page(), "id=\"moe\""));
  const std::filesystem::path mixture = example.run.mixture();
  Json config = read_json_file(example.run.seed() / "config.json");
  config.update({{"model_type", "opt_moe"}, {"num_experts", 4}, {"experts_per_token", 2}, {"moe_layers", {1}}});
  write_json_file(mixture / "config.json", config);
  write_json_file(mixture / "expert.json",
                  {{"kind", "moe"},
                   {"settings", {{"steps", 2}, {"sequence_length", 64}, {"batch_sequences", 32}}},
                   {"training", {{"tokens", 8192}, {"skipped_steps", 0}, {"training_seconds", 4.0}}}});
  std::string metrics;
  for (int step = 1; step <= 2; ++step)
    metrics += Json{{"step", step},
                    {"tokens", 4096 * step},
                    {"loss", 2.0},
                    {"routing",
                     {{{"layer", 1},
                       {"first_choices", {10, 20, 30, 40}},
                       {"second_choices", {70, 10, 10, 10}},
                       {"kept", {50, 30, 40, 50}},
                       {"dropped_first", 5},
                       {"dropped_second", 25},
                       {"dropped_both", 3},
                       {"entropy", std::log(4.0) / 2},
                       {"balance_loss", 1.25}}}}}
                   .dump() +
               "\n";
  write_file_atomically(mixture / "metrics.jsonl",
                        metrics + "{\"tokens\":9,\"routing\":[{\"first_choices\":[1,\"x\"]}]}\n");
  Json evaluation = read_json_file(example.run.evaluation() / "baseline.json");
  evaluation["perplexity"] = 48.75;
  write_json_file(example.run.evaluation() / "moe.json", evaluation);
  const std::string page = example.page();
  CHECK(markup_fault(page) == "");
  CHECK(!has(page, "What is missing"));
  CHECK(has(page, "<th scope=\"row\">mixture of experts</th><td>48.75</td>"));
  // The busiest expert has 80 of 200 choices, four experts: 1.60 of an even share; 30 of 200 were dropped, 3 of 100
  // tokens have none; the entropy is half of that of even gates.
  CHECK(has(page, "<td>1.60</td><td>0.60</td><td>15.0 %</td><td>3.0 %</td><td>50.0 %</td><td>1.250</td>"));
  CHECK(has(page, "FLOPs a token in training"));
}

TEST_CASE("what cannot be compared is said") {
  const ExampleRun example;
  Json baseline = read_json_file(example.run.evaluation() / "baseline.json");
  baseline["tokens"] = 29;
  write_json_file(example.run.evaluation() / "baseline.json", baseline);
  CHECK(has(example.page(),
            "The dense model was scored on 29 tokens, the ensemble on 30: their perplexities cannot be compared."));
}

TEST_CASE("numbers that no run can hold, and values of the wrong kind, are left out") {
  const std::string nested = std::string(5000, '[') + std::string(5000, ']');
  const std::pair<const char*, std::string> damaged[] = {
      {"ensemble.json", R"({"settings": {"top_k": 18446744073709551615}, "perplexity": 12})"},
      {"ensemble.json",
       R"({"sweep": [{"top_k": 18446744073709551615, "perplexity": 3}, {"top_k": 1e300, "perplexity": 2}]})"},
      {"ensemble.json", R"({"documents": {"a": 1, "b": 2}, "settings": {"documents": {"split": "valid"}}})"},
      {"ensemble.json", R"({"sweep": 7, "settings": 9, "matrix": "x", "documents": "y"})"},
      {"ensemble.json", R"({"settings": {"deep": )" + nested + "}}"},
      {"curve.json",
       R"({"points": [{"tokens": -1, "dense": 1e-320, "top_1": 1e308}, {"tokens": 1e300, "dense": 1, "all": 1}]})"},
      {"curve.json",
       R"({"points": [{"tokens": 1e-320, "dense": 2, "top_1": 1}, {"tokens": 1e17, "dense": 2, "top_1": 1}]})"},
      {"curve.json", R"({"points": 5})"},
      {"baseline.json", R"({"perplexity": 1e308, "tokens": 18446744073709551615, "documents": {"a": {}}})"}};
  for (const auto& [name, contents] : damaged) {
    CAPTURE(name);
    CAPTURE(contents.substr(0, 100));
    const ExampleRun example;
    write_file_atomically(example.run.evaluation() / name, contents);
    CHECK_NOTHROW(write_report(example.run));
    CHECK(std::filesystem::exists(example.run.report()));
  }
  const std::string clusters[] = {
      R"({"clusters": 18446744073709551615, "sizes": [1, "x", {"train_tokens": 1e308}], "map": [[1e308, -1e308, 1], [0, 0, 18446744073709551615]]})",
      R"({"clusters": 2, "sizes": {"a": 1}, "top_terms": {"b": 2}, "map": {"c": 3}, "corpus": []})"};
  for (const std::string& contents : clusters) {
    const ExampleRun example;
    write_file_atomically(example.run.clusters_json(), contents);
    CHECK_NOTHROW(write_report(example.run));
  }
}

TEST_CASE("a directory that is not there is an error") {
  const TemporaryDirectory directory;
  CHECK_THROWS_AS(write_report(RunDirectory(directory / "nothing")), Error);
}

}  // namespace
}  // namespace cbtm
