#include "settings.h"

#include <cstdlib>
#include <sstream>

#include "block.h"

namespace sim {

// By NVIDIA's CUDA C++ Programming Guide 12.9, table "Technical Specifications per Compute Capability".
static const Architecture ARCHITECTURES[] = {
    {80, 163 << 10, 164 << 10, 2048, 32}, {89, 99 << 10, 100 << 10, 1536, 24},   {90, 227 << 10, 228 << 10, 2048, 32},
    {100, 227 << 10, 228 << 10, 2048, 32}, {120, 99 << 10, 100 << 10, 1536, 24},
};

const Architecture* architecture(uint64_t number) {
  for (const Architecture& architecture : ARCHITECTURES)
    if (architecture.number == number) return &architecture;
  return nullptr;
}

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
  uint64_t shared_bytes = 0;
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
    } else if (key == "arch") {
      uint64_t wanted;
      const Architecture* known = number(value, wanted) ? architecture(wanted) : nullptr;
      if (!known) return "arch=" + value + ": expected 80, 89, 90, 100 or 120";
      settings.architecture = known;
    } else if (key == "shared") {
      if (!number(value, shared_bytes) || shared_bytes < 48 << 10 || shared_bytes > DYNAMIC_SHARED_BYTES)
        return "shared=" + value + ": expected a number of bytes from 49152 to 232448";
    } else if (key == "check") {
      if (!checks(value, settings)) return "check=" + value + ": expected race, bounds, race+bounds or race+bounds+proxy";
    } else if (pair == "count=1" || pair == "count=range") {
      settings.count = true;
      settings.range = pair == "count=range";
    } else if (pair == "waits=1") {
      settings.waits = true;
    } else {
      return pair + ": expected schedule=…, late, early, memory=…, arch=…, shared=…, check=…, count=1, count=range or "
                    "waits=1";
    }
  }
  settings.shared_bytes = shared_bytes ? shared_bytes : settings.architecture->shared_bytes;
  return "";
}

}  // namespace sim
