-- Append events, each in one atomic step: deduplicate, number, chain, store, trim and publish.
-- KEYS, of each event: meta, entries, ids, and if its run has a lease, where it stands which runs have ended
-- ARGV: age ms, most events, most bytes, head ms, skew ms; then of each event: channel, 16 random characters and 1 or 0
--       for control and event id, labels and body. After the event id, behind \31, may come L and the lease of its run, or
--       W and epoch, space, offset: where it was acknowledged before, if this Redis may have forgotten it.
-- Answer, of each event: epoch, offset and mark with spaces between; nothing, if its run has ended; or an error
-- What is known of a log is one packed field: epoch and the mark of the head, 8 characters each (spaces if there is no
-- mark), the head, bytes that are retained, the oldest entry that is (or the next if none is) and its ms, and the ms at
-- which to prolong what expires.
-- An entry is mark, prev, ms, event id and labels (connection, thread, owner), with \31 between, then \n and the body.
local pack, unpack, KNOWN, KNOWN_BYTES, NO_MARK = struct.pack, struct.unpack, '>c8c8ddddd', 56, '        '
local OURS = '^[%w_-]+ *()' -- behind epoch and mark
local call, try, format, match, find, sub = redis.call, redis.pcall, string.format, string.match, string.find, string.sub
local age, most, most_bytes, head_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[5]
local now_said = format('\31%d\31', now)

local function append(meta, entries, ids, channel, random, id, said, was)
  local mark = sub(random, 9, 16)
  local epoch, prev, head, bytes, first, first_at, fresh
  local known = call('HGET', meta, 's')
  if known and #known == KNOWN_BYTES and match(known, OURS) == 17 and unpack('>d', known, 17) % 1 == 0 then
    epoch, prev, head, bytes, first, first_at, fresh = unpack(KNOWN, known)
    if prev == NO_MARK then prev = '' end
  else
    epoch, prev, head, bytes, first, first_at, fresh = sub(random, 1, 8), '', 0, 0, 1, now, 0
    call('HSET', meta, 's', '') -- first: a server that is full refuses it
    call('HDEL', meta, 'c')
    call('DEL', entries, ids) -- of a life that is over
  end

  if was then
    local life, there = match(was, '^(%S+) (%d+)$')
    if life == epoch and tonumber(there) <= head then
      local held = call('XRANGE', entries, there .. '-0', there .. '-0')[1]
      local stands, _, whose = match(held and held[2][2] or '', '^([^\31]*)\31[^\31]*\31(%d+)\31([^\31]*)')
      if not held or whose == id then return epoch .. ' ' .. there .. ' ' .. (stands or mark) end -- was not forgotten
    end
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

  local packed = mark .. '\31' .. prev .. now_said .. id .. '\31' .. said
  if type(try('XADD', entries, offset .. '-0', 'd', packed)) == 'table' then
    epoch, head, bytes, first, first_at, fresh = sub(random, 1, 8), 0, 0, 1, now, 0
    call('HDEL', meta, 'c')
    call('DEL', entries, ids) -- what stands there is none of ours, and higher
    offset, packed = '1', mark .. '\31' .. now_said .. id .. '\31' .. said
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
  call('HSET', meta, 's', pack(KNOWN, epoch, mark, head, bytes, first, first_at, fresh))
  if refresh then
    local lasts = math.floor(age / 8) + age
    call('PEXPIRE', entries, lasts)
    call('PEXPIRE', ids, lasts)
    call('PEXPIRE', meta, math.max(lasts, head_ms))
  end
  local published = epoch .. '\31' .. offset .. '\31' .. packed
  if sub(random, 17, 17) == '1' then call('HSET', meta, 'c', published) end
  call('PUBLISH', channel, published)
  return epoch .. ' ' .. offset .. ' ' .. mark
end

local answers, key = {}, 1
for argument = 6, #ARGV, 3 do
  local random, id = ARGV[argument + 1], sub(ARGV[argument + 1], 18)
  local meta, entries, ids, was = KEYS[key], KEYS[key + 1], KEYS[key + 2], nil
  key = key + 3
  local ended = false
  if find(id, '\31', 1, true) then
    local what, more
    id, what, more = match(id, '^([^\31]*)\31(.)(.*)$')
    if what == 'W' then
      was = more
    else
      ended = call('SISMEMBER', KEYS[key], more) == 1
      key = key + 1
    end
  end
  local done, answer = true, ''
  if not ended then
    done, answer = pcall(append, meta, entries, ids, ARGV[argument], random, id, ARGV[argument + 2], was)
  end
  if not done and type(answer) ~= 'table' then answer = {err = answer} end -- before Redis 7
  answers[#answers + 1] = answer
end
return answers
