#include "settings.h"

#include <cstdlib>
#include <sstream>

#include "block.h"

namespace sim {

static bool number(const std::string& text, uint64_t& value) {
  if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos) return false;
  value = strtoull(text.c_str(), nullptr, 10);
  return true;
}

static bool schedule(const std::string& value, Settings& settings) {
  if (value == "lowest") settings.schedule = Schedule::Lowest;
  else if (value == "highest") settings.schedule = Schedule::Highest;
  else if (value == "round") settings.schedule = Schedule::Round;
  else if (value.rfind("random:", 0) == 0 && number(value.substr(7), settings.seed)) settings.schedule = Schedule::Random;
  else return false;
  return true;
}

// False unless `value` is what to check for, each once, joined by plus signs.
static bool checks(const std::string& value, Settings& settings) {
  std::istringstream kinds(value + "+");
  for (std::string kind; std::getline(kinds, kind, '+');) {
    bool& chosen = kind == "race" ? settings.races : kind == "bounds" ? settings.bounds : settings.proxy;
    if (chosen || (kind != "race" && kind != "bounds" && kind != "proxy")) return false;
    chosen = true;
  }
  return settings.races || (settings.bounds && !settings.proxy);  // proxies are a question of order
}

std::string parse(const char* text, Settings& settings) {
  std::istringstream pairs(text);
  for (std::string pair; std::getline(pairs, pair, ',');) {
    size_t equals = pair.find('=');
    std::string key = pair.substr(0, equals), value = equals == std::string::npos ? "" : pair.substr(equals + 1);
    if (key == "schedule") {
      if (!schedule(value, settings)) return "schedule=" + value + ": expected lowest, highest, round or random:SEED";
    } else if (pair == "late" || pair == "early") {
      settings.early = pair == "early";
    } else if (key == "memory") {
      uint64_t bytes;
      if (!number(value, bytes)) return "memory=" + value + ": expected a number of bytes";
      settings.memory_bytes = bytes;
    } else if (key == "shared") {
      uint64_t bytes;
      if (!number(value, bytes) || bytes < 48 << 10 || bytes > DYNAMIC_SHARED_BYTES)
        return "shared=" + value + ": expected a number of bytes from 49152 to 232448";
      settings.shared_bytes = bytes;
    } else if (key == "check") {
      if (!checks(value, settings)) return "check=" + value + ": expected race, bounds, race+bounds or race+bounds+proxy";
    } else if (pair == "count=1" || pair == "count=range") {
      settings.count = true;
      settings.range = pair == "count=range";
    } else if (pair == "waits=1") {
      settings.waits = true;
    } else {
      return pair + ": expected schedule=…, late, early, memory=…, shared=…, check=…, count=1, count=range or waits=1";
    }
  }
  return "";
}

}  // namespace sim
