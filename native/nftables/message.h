// Converts the content of a table to the messages that create it, and back. The kernel reports a table in the same
// messages. Pure.
#pragma once

#include <linux/netfilter/nf_tables.h>

#include "native/nftables/expression.h"
#include "native/nftables/netlink.h"

namespace ipnc::nftables {

// The messages that create the table and its content.
void PutTable(Writer& writer, TableName name, const Content& content);
// The messages that remove the table; with `surely` they succeed even if it does not exist.
void PutRemoval(Writer& writer, TableName name, bool surely);
// The messages for a table that the kernel removes with the socket.
void PutGuard(Writer& writer, const Content& content);
void PutGuardRemoval(Writer& writer);
// The messages that recreate a table from the kernel's report, without the kernel's own attributes. `dump` is in the
// order of dependence: table, chains, flowtables, objects, sets, their elements, rules.
void PutRecreation(Writer& writer, View dump);

// One expression in the list of a rule's. `body` puts the attributes of its data.
template <typename Body>
void PutExpression(Writer& writer, const char* name, Body body) {
  const size_t element = writer.Open(NFTA_LIST_ELEM);
  writer.PutText(NFTA_EXPR_NAME, name);
  const size_t data = writer.Open(NFTA_EXPR_DATA);
  body();
  writer.Close(data);
  writer.Close(element);
}

// What a dump, in any order in which a set's elements come before the rules, says of a table. Of what it does not
// understand, or what is not well formed, something remains that equals nothing of ours.
Content Parse(View dump);

// The expressions of a rule, NFTA_RULE_EXPRESSIONS, one for each element; of sets none is known.
std::vector<Expression> ReadExpressions(View list);

// What a message is about, in words: "rule in chain output: meta load, cmp, verdict". Empty for no message of a table.
std::string Describe(const Message& message);
// The table's name in a message of nf_tables.
std::string TableOf(const Message& message);

}  // namespace ipnc::nftables
