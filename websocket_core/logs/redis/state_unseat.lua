-- Make room for a connection: the seats of processes that are gone count no more, and of too many the oldest go.
-- KEYS: seats
-- ARGV: seat that stays, most seats, processes that are gone
-- Answer: those that went for being too many, as {seat, connection id, process} each
local gone = {}
for i = 3, #ARGV do gone[ARGV[i]] = true end
local seats = redis.call('HGETALL', KEYS[1])
local left, count = {}, 0
for i = 1, #seats, 2 do
  local number, process, connection = string.match(seats[i + 1], '^(%d+)\n([^\n]*)\n(.*)$')
  if not number or (gone[process] and seats[i] ~= ARGV[1]) then
    redis.call('HDEL', KEYS[1], seats[i])
  elseif seats[i] ~= ARGV[1] then
    left[#left + 1] = {tonumber(number), seats[i], connection, process}
    count = count + 1
  else
    count = count + 1
  end
end
table.sort(left, function(one, other) return one[1] < other[1] end)
local out = {}
for i = 1, math.min(count - ARGV[2], #left) do
  redis.call('HDEL', KEYS[1], left[i][2])
  out[i] = {left[i][2], left[i][3], left[i][4]}
end
return out
