-- Read after a position, or from the oldest entry. Changes nothing.
-- KEYS: meta, entries
-- ARGV: skew ms, age ms, limit, most bytes, most bytes of one entry, epoch or "" for none, offset, mark
-- Answer: false if there is no log; else {epoch, reason or "", start offset, start mark, whether more follow, how many
--         were passed over that are none of ours, offset, entry, offset, entry ...}
local call = redis.call
local meta, entries = KEYS[1], KEYS[2]
local limit, most, most_of_one = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local time = call('TIME')
local cutoff = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1] - ARGV[2]
local known = call('HGET', meta, 's')
if not known or #known ~= 56 or string.match(known, '^[%w_-]+ *()') ~= 17 then return false end
local epoch, head_mark, head = struct.unpack('>c8c8d', known) -- as append.lua says
head_mark = string.match(head_mark, '^%S*')

local foreign = 0

-- entries up to the head as {number, packed}; those that are none of ours are counted and passed over
local function range(first, limit)
  local from, found = string.format('%d-0', first), {}
  while first <= head do
    local held = call('XRANGE', entries, from, string.format('%d-0', head), 'COUNT', limit)
    for _, entry in ipairs(held) do
      local number, packed = tonumber(string.match(entry[1], '^(%d+)%-0$')), entry[2][2]
      if number and #packed <= most_of_one and string.find(packed, '^[^\31\n]*\31[^\31\n]*\31%d+\31') then
        found[#found + 1] = {number, packed}
      else
        foreign = foreign + 1
      end
    end
    if #found > 0 or #held < limit then break end
    from = '(' .. held[#held][1]
  end
  return found
end

local function prev_of(entry) return string.match(entry[2], '^[^\31]*\31([^\31]*)') end

local function young(entry) return tonumber(string.match(entry[2], '^[^\31]*\31[^\31]*\31(%d+)')) >= cutoff end

-- the oldest entry that is retained: those before it are too old, and go with the next append
local function oldest()
  local entry = range(1, 16)[1]
  if not entry or young(entry) then return entry end
  local low, high, found = entry[1], head + 1, nil -- low is too old, high is not
  while high - low > 1 do
    local middle = range(math.floor((low + high) / 2), 1)[1]
    if not middle or middle[1] >= high then
      high = math.floor((low + high) / 2)
    elseif young(middle) then
      high, found = middle[1], middle
    else
      low = middle[1]
    end
  end
  return found
end

local reason, start, start_mark, found = '', nil, nil, nil
local offset, mark = tonumber(ARGV[7]), ARGV[8]
if ARGV[6] == epoch and offset == head then
  if mark == head_mark then start, start_mark, found = offset, mark, {} else reason = 'diverged' end
elseif ARGV[6] == epoch and offset < head then
  found = range(offset + 1, limit)
  local next_ = found[1]
  if next_ and next_[1] == offset + 1 and young(next_) then
    if prev_of(next_) == mark then start, start_mark = offset, mark else reason = 'diverged' end
  else
    local unreadable, here = foreign > 0, range(offset, 1)[1]
    if unreadable and here and here[1] == offset and string.match(here[2], '^[^\31]*') == mark then
      start, start_mark = offset, mark -- it stands where it stood; what comes next is none of ours
    else
      local first = oldest()
      reason = first and first[1] <= offset + 1 and 'diverged' or 'trimmed'
    end
  end
elseif ARGV[6] == epoch then
  reason = 'diverged'
elseif ARGV[6] ~= '' then
  reason = 'new_epoch'
end
if not start then
  local first = oldest()
  if first then
    start, start_mark, found = first[1] - 1, prev_of(first), range(first[1], limit)
  else
    start, start_mark, found = head, head_mark, {}
  end
end

local answer, size, last = {epoch, reason, start, start_mark, 0, foreign}, 0, nil
for _, entry in ipairs(found) do
  size = size + #entry[2]
  if last and size > most then break end
  answer[#answer + 1] = entry[1]
  answer[#answer + 1] = entry[2]
  last = entry[1]
end
if last and last < head then answer[5] = 1 end
return answer
