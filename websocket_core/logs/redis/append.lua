-- Append one event: deduplicate, number, chain, store, trim and publish, in one atomic step.
-- KEYS: meta, entries, ids
-- ARGV: skew ms, age ms, most events, most bytes, head ms, channel, epoch if there is none, owner,
--       event id, mark, "" or = and the connection id, the same of the thread id, body, control (0 or 1),
--       and where it was acknowledged before, if this Redis may have forgotten it: epoch, offset
-- Answer: epoch, offset, mark
if redis.replicate_commands then redis.replicate_commands() end
local meta, entries, ids = KEYS[1], KEYS[2], KEYS[3]
local id, mark, body = ARGV[9], ARGV[10], ARGV[13]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
local age = tonumber(ARGV[2])

local known = redis.call('HMGET', meta, 'e', 'o', 'm', 'b')
local epoch, head, prev, bytes = known[1], tonumber(known[2]), known[3], tonumber(known[4])
if not epoch then
  epoch, head, prev, bytes = ARGV[7], 0, '', 0
  redis.call('HSET', meta, 'e', epoch, 'o', head, 'm', prev, 'b', bytes) -- first: a server that is full refuses it
  redis.call('DEL', entries, ids) -- entries without their meta belong to a life that is over
end

local function field(pairs_, name)
  for i = 1, #pairs_, 2 do
    if pairs_[i] == name then return pairs_[i + 1] end
  end
end

local function drop(entry)
  redis.call('HDEL', ids, field(entry[2], 'i'))
  redis.call('XDEL', entries, entry[1])
  bytes = bytes - #field(entry[2], 'b')
end

local function oldest()
  return redis.call('XRANGE', entries, '-', '+', 'COUNT', 1)[1]
end

local entry = oldest()
if not entry then bytes = 0 end
while entry and tonumber(field(entry[2], 't')) < now - age do
  drop(entry)
  entry = oldest()
end

local there = redis.call('HGET', ids, id)
if there then
  local held = redis.call('XRANGE', entries, there .. '-0', there .. '-0')[1]
  if held then
    redis.call('HSET', meta, 'b', bytes)
    return {epoch, tonumber(there), field(held[2], 'm')}
  end
end

if ARGV[15] == epoch and tonumber(ARGV[16]) <= head
    and (not entry or tonumber(ARGV[16]) < tonumber(string.match(entry[1], '^%d+'))) then
  redis.call('HSET', meta, 'b', bytes)
  return {epoch, tonumber(ARGV[16]), mark} -- was not forgotten: it is retained no more
end

local offset = string.format('%d', head + 1)
redis.call('XADD', entries, offset .. '-0', 'i', id, 'm', mark, 'p', prev, 't', string.format('%d', now),
  'c', ARGV[11], 'h', ARGV[12], 'n', ARGV[8], 'b', body)
redis.call('HSET', ids, id, offset)
bytes = bytes + #body
local count = redis.call('XLEN', entries)
while count > tonumber(ARGV[3]) or (bytes > tonumber(ARGV[4]) and count > 1) do
  drop(oldest())
  count = count - 1
end
redis.call('HSET', meta, 'e', epoch, 'o', offset, 'm', mark, 'b', bytes)
if ARGV[14] == '1' then
  redis.call('HSET', meta, 'c', table.concat({offset, mark, prev, string.format('%d', now), id, ARGV[8], body}, '\n'))
end
redis.call('PEXPIRE', entries, age)
redis.call('PEXPIRE', ids, age)
redis.call('PEXPIRE', meta, ARGV[5])
redis.call('PUBLISH', ARGV[6],
  table.concat({epoch, offset, mark, prev, string.format('%d', now), id, ARGV[11], ARGV[12], ARGV[8], body}, '\n'))
return {epoch, tonumber(offset), mark}
