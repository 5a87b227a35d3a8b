// Numbers and times in words. Rates are in bits and packets a second, totals in octets.

const NONE = "–";

function scaled(value, units, base = 1000) {
  let at = 0;
  while (value >= base * 0.9995 && at < units.length - 1) {
    value /= base;
    at += 1;
  }
  const digits = value >= 99.95 || at === 0 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${units[at]}`;
}

/** A rate in octets a second, as bits. Nothing is known: a dash. */
export function rate(octets) {
  if (octets === null || octets === undefined) return NONE;
  return scaled(octets * 8, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"]);
}

/** Packets a second. */
export function perSecond(packets) {
  if (packets === null || packets === undefined) return NONE;
  if (packets > 0 && packets < 9.95) return `${packets.toFixed(1)}/s`;
  return `${count(Math.round(packets))}/s`;
}

/** A number of octets. */
export function size(octets) {
  return scaled(octets, ["B", "kB", "MB", "GB", "TB", "PB"]);
}

/** A whole number with its thousands apart. */
export function count(number) {
  return number.toLocaleString("en-GB");
}

/** So many of something: `many(1, "site")` is "1 site". */
export function many(number, one, more = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : more}`;
}

/** Seconds in words, as exact as is of use. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return whole < 600 ? `${Math.floor(whole / 60)} min ${whole % 60} s` : `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** Seconds in words where there is little room. */
export function brief(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  return whole < 172800 ? `${Math.floor(whole / 3600)} h` : `${Math.floor(whole / 86400)} d`;
}

const pad = (number) => String(number).padStart(2, "0");

/** The time of day of Unix time, here; with the date if that is not today's. */
export function moment(at, now = Date.now() / 1000) {
  const date = new Date(at * 1000);
  const time = `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
  if (date.toDateString() === new Date(now * 1000).toDateString()) return time;
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())} ${time}`;
}

/** Unix time for a machine, and for whoever points at it. */
export function iso(at) {
  return new Date(at * 1000).toISOString();
}
