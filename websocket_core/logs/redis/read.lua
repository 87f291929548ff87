-- Read after a position, or from the oldest entry. Changes nothing.
-- KEYS: meta, entries
-- ARGV: skew ms, age ms, limit, most bytes, epoch or "" for none, offset, mark
-- Answer: false if there is no log; else epoch, reason or "", start offset, start mark, whether more follow, and the
--         entries as {offset, mark, prev, ms, id, connection id, thread id, owner, body}
local meta, entries = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local cutoff = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1] - ARGV[2]
local known = redis.call('HMGET', meta, 'e', 'o', 'm')
local epoch, head, head_mark = known[1], tonumber(known[2]), known[3]
if not epoch then return false end

local function field(entry, name)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == name then return entry[2][i + 1] end
  end
end

local function at(offset)
  local id = string.format('%d-0', offset)
  return redis.call('XRANGE', entries, id, id)[1]
end

local function young(entry) return tonumber(field(entry, 't')) >= cutoff end

-- the oldest entry that is retained: those before it are too old, and go with the next append
local first
local oldest = redis.call('XRANGE', entries, '-', '+', 'COUNT', 1)[1]
if oldest then
  first = tonumber(string.match(oldest[1], '^%d+'))
  if not young(oldest) then
    local low, high = first, head + 1 -- low is too old, high is not
    while high - low > 1 do
      local middle = math.floor((low + high) / 2)
      local entry = at(middle)
      if entry and young(entry) then high = middle else low = middle end
    end
    first = high <= head and high or nil
  end
end

local reason, start, start_mark = '', nil, nil
if ARGV[5] ~= '' then
  local offset, mark = tonumber(ARGV[6]), ARGV[7]
  if ARGV[5] ~= epoch then
    reason = 'new_epoch'
  elseif offset > head then
    reason = 'diverged'
  elseif offset == head then
    if mark ~= head_mark then reason = 'diverged' end
  elseif first and offset + 1 >= first then
    local next_ = at(offset + 1)
    if not next_ or field(next_, 'p') ~= mark then reason = 'diverged' end
  else
    reason = 'trimmed'
  end
  if reason == '' then start, start_mark = offset, mark end
end
if not start then
  if first then
    start, start_mark = first - 1, field(at(first), 'p')
  else
    start, start_mark = head, head_mark
  end
end

local limit, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local found, size = {}, 0
if start < head then
  for _, entry in ipairs(redis.call('XRANGE', entries, string.format('%d-0', start + 1), '+', 'COUNT', limit)) do
    local body = field(entry, 'b')
    size = size + #body
    if #found > 0 and size > most then break end
    found[#found + 1] = {tonumber(string.match(entry[1], '^%d+')), field(entry, 'm'), field(entry, 'p'),
      field(entry, 't'), field(entry, 'i'), field(entry, 'c'), field(entry, 'h'), field(entry, 'n'), body}
  end
end
local last = #found > 0 and found[#found][1] or start
return {epoch, reason, start, start_mark, (#found > 0 and last < head) and 1 or 0, found}
