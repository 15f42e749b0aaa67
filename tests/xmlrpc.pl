# A client of the front end that shares nothing with it: Perl with its library RPC::XML.
# SPDX-License-Identifier: ZPL-2.1
#
#   perl xmlrpc.pl URL
#
# adds jobs, waits for them, compares what comes back, and prints the id of the first one.
use strict;
use warnings;
use utf8;
use RPC::XML;
use RPC::XML::Client;
use Test::More;

$RPC::XML::ENCODING = 'utf-8';
$RPC::XML::ALLOW_NIL = 1;

my $client = RPC::XML::Client->new($ARGV[0]);

# A fault is returned, as an object of the library; anything else that is wrong ends the program.
sub response {
    my $response = $client->send_request(@_);
    die "$_[0]: $response\n" unless ref $response;
    return $response;
}

sub call {
    my $response = response(@_);
    die sprintf "%s: %d %s\n", $_[0], $response->code, $response->string if $response->is_fault;
    return $response->value;
}

sub boolean { return RPC::XML::boolean->new($_[0]) }
sub text { return RPC::XML::string->new($_[0]) }

my $input = {
    'text' => text("Grüße, \x{1F600}, ]]> & <b>\n\t\""),
    'Schlüssel & <Schloß>' => text(''),
    'numbers' => [0, -7, 2147483647, 9007199254740993, RPC::XML::double->new(0.5)],
    'truth' => [boolean(1), boolean(0), RPC::XML::nil->new],
    'bytes' => RPC::XML::base64->new("\x00\xff\n\r"),
    'time' => RPC::XML::datetime_iso8601->new('20240229T12:30:01'),
    'nested' => [[], {}, [{'deep' => ['down']}]],
};
my $options = {'key' => text('order 7')};
my $jobid = call('add', 'echo', $input, boolean(0), $options);
is_deeply(call('waitFor', [$jobid], RPC::XML::double->new(60.5)), ['completed'], 'it is run');
my $result = call('getResult', $jobid);
is($result->{text}, "Grüße, \x{1F600}, ]]> & <b>\n\t\"", 'text');
is($result->{'Schlüssel & <Schloß>'}, '', 'no text');
is_deeply($result->{nested}, [[], {}, [{'deep' => ['down']}]], 'arrays and structs');
is_deeply($result->{truth}, [1, 0, undef], 'booleans and nil');
is($result->{bytes}, "\x00\xff\n\r", 'bytes');
is(call('add', 'echo', $input, boolean(0), $options), $jobid, 'a key is known again');

my ($other, $failing) = @{call('addMany', [{'task' => text('echo')}, {'task' => text('fail')}])};
is_deeply(call('waitFor', [$other, $failing, $jobid], 60), ['completed', 'error', 'completed'], 'many are run');
is(call('getError', $failing), 'für immer', 'the error');

my $fault = response('getStatus', 7);
ok($fault->is_fault, 'a fault');
is($fault->code, 103, 'its code');
is($fault->string, 'there is no job 7', 'its text');
is_deeply(call('system.methodSignature', 'cancel'), [['boolean', 'int']], 'introspection');

done_testing();
print "$jobid\n";
