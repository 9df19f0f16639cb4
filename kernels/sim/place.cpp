#include "place.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

namespace sim {
namespace {

// A module lies in a file without a name, which this process alone reaches through its own /proc.
std::string path_of(const Dl_info& object) {
  std::string path = object.dli_fname, self = "/proc/self/";
  if (path.rfind(self, 0) == 0) path = "/proc/" + std::to_string(getpid()) + "/" + path.substr(self.size());
  return path;
}

std::string read_all(const std::string& command) {
  std::string text;
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return text;
  char part[4096];
  while (size_t n = fread(part, 1, sizeof part, pipe)) text.append(part, n);
  pclose(pipe);
  return text;
}

// Frames, innermost first. Wrappers of ptx.cuh stand for the line that calls them.
std::string join(const std::vector<std::string>& frames) {
  size_t first = 0;
  while (first + 1 < frames.size() && frames[first].rfind("ptx.cuh:", 0) == 0) first++;
  std::string text;
  for (size_t i = first; i < frames.size(); i++) text += (i > first ? ", inlined at " : "") + frames[i];
  return text;
}

// The frames of each address that addr2line was asked for with -a, which prints the address first.
void parse(const std::string& text, const std::map<uint64_t, const void*>& asked, std::map<const void*, std::string>& found) {
  const void* place = nullptr;
  std::vector<std::string> frames;
  auto over = [&] {
    if (place && !frames.empty()) found[place] = join(frames);
    frames.clear();
  };
  for (size_t start = 0; start < text.size();) {
    size_t end = text.find('\n', start);
    std::string line = text.substr(start, end - start);
    start = end == std::string::npos ? text.size() : end + 1;
    line = line.substr(0, line.find(" (discriminator"));
    if (line.rfind("0x", 0) == 0) {
      over();
      auto it = asked.find(strtoull(line.c_str(), nullptr, 16));
      place = it == asked.end() ? nullptr : it->second;
    } else if (line.rfind("??", 0) != 0) {
      frames.push_back(line);
    }
  }
  over();
}

}  // namespace

std::map<const void*, std::string> places_of(const std::vector<const void*>& places) {
  std::map<const void*, std::string> found;
  std::map<std::string, std::map<uint64_t, const void*>> objects;
  for (const void* place : places) {
    Dl_info object;
    if (!place || !dladdr(place, &object)) {
      found[place] = "an unknown place";
      continue;
    }
    uint64_t offset = reinterpret_cast<uint64_t>(place) - reinterpret_cast<uint64_t>(object.dli_fbase);
    // Until addr2line answers. The call lies before the address it returns to.
    char hex[32];
    snprintf(hex, sizeof hex, "%#llx", static_cast<unsigned long long>(offset));
    found[place] = "offset " + std::string(hex) + " of its module (is addr2line installed?)";
    objects[path_of(object)][offset - 1] = place;
  }
  constexpr size_t AT_ONCE = 500;
  for (auto& [path, asked] : objects) {
    for (auto it = asked.begin(); it != asked.end();) {
      std::string command = "addr2line -a -s -i -e '" + path + "'";
      for (size_t i = 0; i < AT_ONCE && it != asked.end(); i++, ++it) {
        char hex[32];
        snprintf(hex, sizeof hex, " %#llx", static_cast<unsigned long long>(it->first));
        command += hex;
      }
      parse(read_all(command + " 2>/dev/null"), asked, found);
    }
  }
  return found;
}

std::string place_of(const void* place) { return places_of({place})[place]; }

}  // namespace sim
