-- Append one event: deduplicate, number, chain, store, trim and publish, in one atomic step.
-- KEYS: meta, entries, ids
-- ARGV: age ms, most events, most bytes, head ms, channel; then of this event: skew ms, 16 random characters, event id,
--       labels and body, control (0 or 1), and where it was acknowledged before, if this Redis may have forgotten it:
--       epoch, offset
-- Answer: epoch, offset and mark with spaces between
-- What is known of the log is one text: epoch, head, its mark, bytes that are retained, the oldest entry that is (or the
-- next if none is) and its ms, and the ms at which to prolong what expires.
-- An entry is mark, prev, ms, event id and labels (connection, thread, owner), with \31 between, then \n and the body.
local call, format, match, find = redis.call, string.format, string.match, string.find
local meta, entries, ids = KEYS[1], KEYS[2], KEYS[3]
local age, most, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local id, mark, said = ARGV[8], string.sub(ARGV[7], 9), ARGV[9]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[6]

local epoch, head, prev, bytes, first, first_at, fresh =
  match(call('HGET', meta, 's') or '', '^(%S+) (%d+) (%S*) (%d+) (%d+) (%d+) (%d+)$')

-- There are no local functions: each would cost every append a closure.
if epoch then
  head, bytes, first, first_at, fresh =
    tonumber(head), tonumber(bytes), tonumber(first), tonumber(first_at), tonumber(fresh)
else
  epoch, head, prev, bytes, first, first_at, fresh = string.sub(ARGV[7], 1, 8), 0, '', 0, 1, now, 0
  call('HSET', meta, 's', '') -- first: a server that is full refuses it
  call('HDEL', meta, 'c')
  call('DEL', entries, ids) -- of a life that is over
end

if ARGV[11] == epoch and tonumber(ARGV[12]) <= head then
  local held = call('XRANGE', entries, ARGV[12] .. '-0', ARGV[12] .. '-0')[1]
  local stands, _, whose = match(held and held[2][2] or '', '^([^\31]*)\31[^\31]*\31(%d+)\31([^\31]*)')
  if not held or whose == id then return epoch .. ' ' .. ARGV[12] .. ' ' .. (stands or mark) end -- was not forgotten
end

local offset = format('%d', head + 1)
local new = call('HSETNX', ids, id, offset)
if new == 1 and call('HLEN', ids) ~= head - first + 2 then -- the keys expired, or somebody else had a hand in them
  first, first_at, bytes, fresh = head + 1, now, 0, 0
  call('DEL', ids)
  for _, held in ipairs(call('XRANGE', entries, '-', '+')) do
    local number = tonumber(match(held[1], '^(%d+)%-0$'))
    local at, whose = match(held[2][2], '^[^\31]*\31[^\31]*\31(%d+)\31([^\31]*)')
    if number and whose then
      if number < first then first, first_at = number, tonumber(at) end
      call('HSET', ids, whose, format('%d', number))
      bytes = bytes + #held[2][2] - (find(held[2][2], '\n', 1, true) or 0)
    end
  end
  call('PEXPIRE', ids, math.floor(age / 8) + age)
  new = call('HSETNX', ids, id, offset)
end
if new == 0 then
  local there = call('HGET', ids, id)
  local held = call('XRANGE', entries, there .. '-0', there .. '-0')[1]
  local stands, at, whose = match(held and held[2][2] or '', '^([^\31]*)\31[^\31]*\31(%d+)\31([^\31]*)')
  if whose == id and tonumber(at) >= now - age then return epoch .. ' ' .. there .. ' ' .. stands end
  call('HSET', ids, id, offset)
end

local packed = format('%s\31%s\31%d\31%s\31', mark, prev, now, id) .. said
if type(redis.pcall('XADD', entries, offset .. '-0', 'd', packed)) == 'table' then
  epoch, head, bytes, first, first_at, fresh = string.sub(ARGV[7], 1, 8), 0, 0, 1, now, 0
  call('HDEL', meta, 'c')
  call('DEL', entries, ids) -- what stands there is none of ours, and higher
  offset, packed = '1', format('%s\31\31%d\31%s\31', mark, now, id) .. said
  call('HSETNX', ids, id, offset)
  call('XADD', entries, '1-0', 'd', packed)
end
head, bytes = head + 1, bytes + #said - find(said, '\n', 1, true)

if first >= head then first, first_at = head, now end
while head > first and (head - first >= most or bytes > most_bytes or first_at < now - age) do
  local oldest = call('XRANGE', entries, '-', '+', 'COUNT', 2)
  if not oldest[2] then break end
  local whose = match(oldest[1][2][2], '^[^\31]*\31[^\31]*\31%d+\31([^\31]*)')
  if whose and whose ~= id then call('HDEL', ids, whose) end
  call('XDEL', entries, oldest[1][1])
  bytes = bytes - #oldest[1][2][2] + (find(oldest[1][2][2], '\n', 1, true) or 0)
  first = tonumber(match(oldest[2][1], '^%d+'))
  first_at = tonumber(match(oldest[2][2][2], '^[^\31]*\31[^\31]*\31(%d+)')) or now
end

local refresh = now >= fresh
if refresh then fresh = now + math.floor(age / 8) end
call('HSET', meta, 's', format('%s %s %s %d %d %d %d', epoch, offset, mark, bytes, first, first_at, fresh))
if refresh then
  local lasts = math.floor(age / 8) + age
  call('PEXPIRE', entries, lasts)
  call('PEXPIRE', ids, lasts)
  call('PEXPIRE', meta, math.max(lasts, tonumber(ARGV[4])))
end
local published = epoch .. '\31' .. offset .. '\31' .. packed
if ARGV[10] == '1' then call('HSET', meta, 'c', published) end
call('PUBLISH', ARGV[5], published)
return epoch .. ' ' .. offset .. ' ' .. mark
