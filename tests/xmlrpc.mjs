// A client of the front end that shares nothing with it: the protocol in JavaScript, without any library.
// SPDX-License-Identifier: ZPL-2.1
//
//   node xmlrpc.mjs URL
//
// adds jobs, waits for them, compares what comes back, and prints the id of the first one.
import assert from 'node:assert/strict';


class Fault extends Error {
  constructor({faultCode, faultString}) {
    super(faultString);
    this.code = faultCode;
  }
}

// JavaScript to XML-RPC.  A whole number is an int, any other a double; times are UTC.

function escape(text) {
  return text.replace(/[&<>\r]/g, (character) => `&#${character.charCodeAt(0)};`);
}

function write(value) {
  if (value === null) return '<value><nil/></value>';
  if (typeof value === 'boolean') return `<value><boolean>${Number(value)}</boolean></value>`;
  if (typeof value === 'string') return `<value><string>${escape(value)}</string></value>`;
  if (Number.isInteger(value)) return `<value><int>${value}</int></value>`;
  if (typeof value === 'number') return `<value><double>${value}</double></value>`;
  if (Buffer.isBuffer(value)) return `<value><base64>${value.toString('base64')}</base64></value>`;
  if (value instanceof Date) {
    const text = value.toISOString().slice(0, 19).replaceAll('-', '');
    return `<value><dateTime.iso8601>${text}</dateTime.iso8601></value>`;
  }
  if (Array.isArray(value)) return `<value><array><data>${value.map(write).join('')}</data></array></value>`;
  const members = Object.entries(value).map(
    ([name, member]) => `<member><name>${escape(name)}</name>${write(member)}</member>`);
  return `<value><struct>${members.join('')}</struct></value>`;
}

// XML-RPC to JavaScript

const ENTITIES = {lt: '<', gt: '>', amp: '&', quot: '"', apos: "'"};

function unescape(text) {
  return text.replace(/&(?:#(\d+)|#x([0-9a-f]+)|(\w+));/gi, (all, decimal, hexadecimal, name) => name
    ? ENTITIES[name] : String.fromCodePoint(decimal ? Number(decimal) : parseInt(hexadecimal, 16)));
}

// The element as {name, children, text}; an answer has neither attributes nor CDATA.
function parse(xml) {
  const root = {children: []};
  const open = [root];
  for (const [, text, end, name, empty] of xml.matchAll(/([^<]*)<(\/?)([\w.]+)(\/?)>/g)) {
    if (end) {
      const element = open.pop();
      assert.equal(element.name, name);
      element.text = unescape(text);
    } else {
      const element = {name, children: [], text: ''};
      open.at(-1).children.push(element);
      if (!empty) open.push(element);
    }
  }
  assert.deepEqual(open, [root]);
  return root.children[0];
}

const READERS = {
  'nil': () => null,
  'boolean': ({text}) => text === '1',
  'string': ({text}) => text,
  'int': ({text}) => Number(text),
  'double': ({text}) => Number(text),
  'base64': ({text}) => Buffer.from(text, 'base64'),
  'dateTime.iso8601': ({text}) => new Date(text.replace(/^(....)(..)(..)T(.*)$/, '$1-$2-$3T$4Z')),
  'array': ({children: [data]}) => data.children.map(read),
  'struct': ({children}) => Object.fromEntries(
    children.map(({children: [name, member]}) => [name.text, read(member)])),
};

function read(value) {
  assert.equal(value.name, 'value');
  const [typed] = value.children;
  return READERS[typed.name](typed);
}

// A call

async function call(url, method, ...values) {
  const address = new URL(url);
  const headers = {'Content-Type': 'text/xml'};
  if (address.username) {
    const credentials = decodeURIComponent(`${address.username}:${address.password}`);
    headers.Authorization = `Basic ${Buffer.from(credentials).toString('base64')}`;
    address.username = address.password = '';
  }
  const params = values.map((value) => `<param>${write(value)}</param>`).join('');
  const body = `<?xml version="1.0"?>
    <methodCall><methodName>${method}</methodName><params>${params}</params></methodCall>`;
  const response = await fetch(address, {method: 'POST', headers, body});
  assert.equal(response.status, 200);
  const [answer] = parse(await response.text()).children;
  if (answer.name === 'fault') throw new Fault(read(answer.children[0]));
  return read(answer.children[0].children[0]);
}

// What is tried

const server = (method, ...values) => call(process.argv[2], method, ...values);

const input = {
  'text': 'Grüße, \u{1F600}, ]]> & <b>\r\n\t"',
  'Schlüssel & <Schloß>': '',
  'numbers': [0, -7, 2147483647, 0.1, -2.5e-9],
  'truth': [true, false, null],
  'bytes': Buffer.from([0, 255, 10, 13]),
  'time': new Date('2024-02-29T12:30:01Z'),
  'nested': [[], {}, [{'deep': ['down']}]],
};
const jobid = await server('add', 'echo', input, false, {'key': 'order 7'});
assert.deepEqual(await server('waitFor', [jobid], 60.5), ['completed']);
assert.deepEqual(await server('getResult', jobid), input);
assert.equal(await server('add', 'echo', input, false, {'key': 'order 7'}), jobid);

const [other, failing] = await server('addMany', [{'task': 'echo', 'input': null}, {'task': 'fail'}]);
assert.deepEqual(await server('waitFor', [other, failing, jobid], 60.5), ['completed', 'error', 'completed']);
assert.equal(await server('getResult', other), null);
assert.equal(await server('getError', failing), 'für immer');

await assert.rejects(server('getStatus', 7), (fault) => fault instanceof Fault && fault.code === 103
                     && fault.message === 'there is no job 7');

console.log(jobid);
