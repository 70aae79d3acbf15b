#include "native/nftables/install.h"

#include <netinet/in.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "native/error.h"
#include "native/nftables/encode.h"
#include "native/nftables/message.h"

namespace ipnc::nftables {
namespace {

std::string Named(TableName table) {
  return std::string("inet ") + KernelName(table);
}

std::string NotRestored(const std::vector<TableName>& tables) {
  std::string names;
  for (TableName table : tables) names += (names.empty() ? "table " : ", ") + Named(table);
  return names + " could not be restored";
}

[[noreturn]] void Throw(const Refusal& refusal, const Batch& batch) {
  Error error{.number = refusal.number, .syscall = "nf_tables"};
  View rest = batch.bytes;
  while (const auto message = TakeMessage(rest)) {
    if (message->header.nlmsg_seq != refusal.sequence) continue;
    error.detail = Describe(*message);
    if (!error.detail.empty()) error.table = "inet " + TableOf(*message);
    break;
  }
  throw error;
}

void SendOrThrow(Channel& channel, const Batch& batch) {
  if (const auto refusal = channel.Send(batch)) Throw(*refusal, batch);
}

// Of several passes over a table the last one that changed it counts.
void Record(std::vector<TableResult>& results, TableName table, How how) {
  const auto known = std::find_if(results.begin(), results.end(), [table](const TableResult& result) {
    return !result.family && result.table == table;
  });
  if (known == results.end())
    results.push_back({.family = {}, .table = table, .how = how});
  else if (how != How::kUnchanged)
    known->how = how;
}

}  // namespace

Tables::Tables(std::vector<Table> tables) {
  RequireValid(tables);
  if (tables.empty()) return;
  Writer fresh;
  Writer removal;
  fresh.BeginBatch(std::nullopt);
  removal.BeginBatch(std::nullopt);
  for (const Table& table : tables) {
    // Numbers of their own, in whatever batch they come.
    Writer writer((static_cast<uint32_t>(table.name) + 1) << 24);
    Content content = Encode(table);
    PutTable(writer, table.name, content);
    fresh.Append(writer.bytes());
    PutRemoval(removal, table.name, true);
    wanted_.push_back({table.name, std::move(content), writer.bytes()});
  }
  fresh_ = fresh.EndBatch();
  removal_ = removal.EndBatch();
}

const Tables::Wanted* Tables::Find(TableName table) const {
  for (const Wanted& wanted : wanted_)
    if (wanted.name == table) return &wanted;
  return nullptr;
}

bool Tables::Matches(const State& state, TableName table) const {
  const Wanted* wanted = Find(table);
  const Bytes& dump = state.of(table);
  return wanted ? !dump.empty() && Same(Parse(dump), wanted->content) : dump.empty();
}

void Tables::Try(Channel& channel) const {
  if (wanted_.empty()) return;
  Undo nothing;
  std::vector<TableResult> results;
  Apply(channel, true, results, nothing);
  const auto state = ReadState(channel);
  for (const Wanted& wanted : wanted_)
    if (!state || !Matches(*state, wanted.name))
      throw Error{.code = kInvalidRule,
                  .detail = "this kernel stores a table in another form than it was written",
                  .table = Named(wanted.name)};
}

void Tables::Apply(Channel& channel, bool fresh, std::vector<TableResult>& results, Undo& undo) const {
  const auto generation = Generation(channel);
  if (!generation && wanted_.empty()) return;
  if (!generation) ThrowErrno(EPROTONOSUPPORT, "nf_tables", "this kernel has no nf_tables");
  if (fresh && !wanted_.empty() && ApplyFresh(channel, *generation, results, undo)) return;
  constexpr int kAttempts = 16;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const auto before = ReadState(channel);
    if (before && ApplyOver(channel, *before, results, undo)) return;
  }
  ThrowErrno(EAGAIN, "nf_tables", "another process keeps changing the ruleset");
}

bool Tables::ApplyFresh(Channel& channel, uint32_t generation, std::vector<TableResult>& results, Undo& undo) const {
  const auto made = std::make_shared<bool>(false);
  std::vector<TableName> names;
  for (const Wanted& wanted : wanted_) names.push_back(wanted.name);
  const auto remove = [this, &channel, generation, made] {
    if (!*made) {
      if (Generation(channel) == generation) return;
      // Made, or somebody else made something: ours are exactly what is wanted.
      const auto state = ReadState(channel);
      for (const Wanted& wanted : wanted_)
        if (!state || !Matches(*state, wanted.name)) return;
    }
    SendOrThrow(channel, removal_);
  };
  const auto make = [&] {
    const auto refusal = channel.Send(fresh_);
    if (refusal && refusal->number != EEXIST) Throw(*refusal, fresh_);
    return *made = !refusal;
  };
  if (!undo.Do(NotRestored(names), remove, make)) return false;
  for (const Wanted& wanted : wanted_) Record(results, wanted.name, How::kReplayed);
  return true;
}

// False: the ruleset is no more of the generation in which it was read.
bool Tables::ApplyOver(Channel& channel, const State& before, std::vector<TableResult>& results, Undo& undo) const {
  std::vector<TableResult> planned;
  std::vector<TableName> changed;
  Writer change;
  Writer back;
  change.BeginBatch(before.generation);
  back.BeginBatch(std::nullopt);
  for (TableName table : kTableNames) {
    const Wanted* wanted = Find(table);
    const Bytes& dump = before.of(table);
    if (Matches(before, table)) {
      if (wanted) planned.push_back({.family = {}, .table = table, .how = How::kUnchanged});
      continue;
    }
    const How how = dump.empty() ? How::kReplayed : wanted ? How::kReplaced : How::kCleaned;
    planned.push_back({.family = {}, .table = table, .how = how});
    changed.push_back(table);
    if (!dump.empty()) PutRemoval(change, table, false);
    if (wanted) change.Append(wanted->messages);
    PutRemoval(back, table, true);
    PutRecreation(back, dump);
  }
  if (!changed.empty()) {
    const Batch batch = change.EndBatch();
    const auto made = std::make_shared<bool>(false);
    const auto put_back = [&channel, generation = before.generation, made, old = back.EndBatch()] {
      if (*made || Generation(channel) != generation) SendOrThrow(channel, old);
    };
    const auto make = [&] {
      const auto refusal = channel.Send(batch);
      if (refusal && refusal->number != ERESTART) Throw(*refusal, batch);
      return *made = !refusal;
    };
    if (!undo.Do(NotRestored(changed), put_back, make)) return false;
  }
  for (const TableResult& result : planned) Record(results, result.table, result.how);
  return true;
}

void Tables::RequireInstalled(Channel& channel, const std::vector<TableResult>& results) const {
  std::optional<State> state;
  for (const TableResult& result : results) {
    if (result.family) continue;
    const Wanted* wanted = Find(result.table);
    bool stands = result.how == How::kUnchanged;
    if (result.how == How::kReplayed || result.how == How::kCleaned) {
      const auto use = AskTable(channel, result.table, [](const Message&) {});
      stands = wanted ? use == wanted->content.chains.size() : !use;
    } else if (result.how == How::kReplaced) {
      if (!state) state = ReadState(channel);
      stands = state && Matches(*state, result.table);
    }
    if (!stands)
      throw Error{
          .code = kVerify,
          .detail = "the kernel has other rules than those that were installed, because another process changed them",
          .table = Named(result.table)};
  }
}

size_t Tables::Size() const {
  size_t size = 0;
  // The messages are held twice, and once more as they are compared.
  for (const Wanted& wanted : wanted_) size += 3 * wanted.messages.size();
  return size;
}

std::vector<Table> Tables::Drift(Channel& channel) const {
  const State state = ReadState(channel).value_or(State{});
  std::vector<Table> drift;
  for (TableName table : kTableNames)
    if (!Matches(state, table)) drift.push_back(Decode(table, Parse(state.of(table))));
  return drift;
}

bool HasOurs(Channel& channel, std::span<const TableName> tables) {
  return std::any_of(tables.begin(), tables.end(),
                     [&](TableName table) { return AskTable(channel, table, [](const Message&) {}).has_value(); });
}

Guard::Guard(Channel& channel) : channel_(channel) {
  constexpr int32_t kBeforeMangle = -151;
  Rule rule{.conditions = {{.field = Field::kL4proto, .values = {{}}}}, .target = Verdict::kDrop};
  rule.conditions[0].values[0].first[0] = rule.conditions[0].values[0].last[0] = IPPROTO_TCP;
  const Hook hook{.type = Hook::Type::kFilter, .point = Hook::Point::kPrerouting, .priority = kBeforeMangle};
  Writer removal;
  removal.BeginBatch(std::nullopt);
  PutGuardRemoval(removal);
  removal_ = removal.EndBatch();
  Writer writer;
  writer.BeginBatch(std::nullopt);
  PutGuard(writer, Encode(Table{.chains = {{.name = "prerouting", .hook = hook, .rules = {std::move(rule)}}}}));
  SendOrThrow(channel, writer.EndBatch());
}

Guard::~Guard() {
  try {
    channel_.Send(removal_);
  } catch (const Error&) {
    // It goes with the socket.
  }
}

int ProbeGeneration(Channel& channel) {
  try {
    return Generation(channel) ? 0 : EPROTONOSUPPORT;
  } catch (const Error& error) {
    return error.number;
  }
}

}  // namespace ipnc::nftables
