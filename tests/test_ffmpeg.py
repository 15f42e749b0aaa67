"""A film goes through the example tasks of zcml/site.zcml, with the real ffmpeg."""
# SPDX-License-Identifier: ZPL-2.1
import json
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from zope.component import getSiteManager
from zope.component import getUtility
from zope.interface.registry import Components

from lovely.remotetask.config.zcml import loadSite
from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import TaskError
from lovely.remotetask.files import File
from lovely.remotetask.interfaces import ITask


SITE = pathlib.Path(__file__).parent.parent / 'zcml' / 'site.zcml'


def makeFilm(path, seconds=1):
    """Write an AVI with picture and sound."""
    subprocess.run(
        ['ffmpeg', '-nostdin', '-loglevel', 'error',
         '-f', 'lavfi', '-i', f'testsrc=duration={seconds}:size=160x120:rate=10',
         '-f', 'lavfi', '-i', f'sine=frequency=440:sample_rate=48000:duration={seconds}',
         '-c:v', 'mpeg4', '-c:a', 'pcm_s16le', '-f', 'avi', f'file:{path}'],
        check=True, stdin=subprocess.DEVNULL)


def probe(path):
    """Return what ffprobe says about a file: its format and the kinds of its streams."""
    told = json.loads(subprocess.run(
        ['ffprobe', '-loglevel', 'error', '-of', 'json', '-show_format', '-show_streams', f'file:{path}'],
        check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout)
    return told['format']['format_name'], sorted(stream['codec_type'] for stream in told['streams'])


class TestFFmpeg(unittest.TestCase):

    level = 2

    def setUp(self):
        for program in ('ffmpeg', 'ffprobe'):
            if shutil.which(program) is None:
                self.fail(f'{program} is needed for this test: install the package "ffmpeg" (apt-get install ffmpeg)')
        # A registry of our own instead of the global one.
        registry = Components('test')
        self.addCleanup(getSiteManager.sethook, getSiteManager.sethook(lambda context=None: registry))
        # A copy of the site definition, so that its ../var/media is ours.
        top = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (top / 'zcml').mkdir()
        self.media = top / 'var' / 'media'
        self.media.mkdir(parents=True)
        loadSite(shutil.copy(SITE, top / 'zcml'))
        self.task = getUtility(ITask, 'avi2flv in media')

    def test_a_film_that_is_sent(self):
        task = getUtility(ITask, 'avi2flv')
        makeFilm(self.media / 'a.avi')
        with self.assertRaisesRegex(InvalidInput, "field 'source': must be a file"):
            task.checkInput({'source': 'a.avi'})
        input = {'source': File(self.media / 'a.avi')}
        task.checkInput(input)
        with task(None, 1, input)._source as flash:
            (self.media / 'a.flv').write_bytes(flash.read())
        self.assertEqual(probe(self.media / 'a.flv'), ('flv', ['audio', 'video']))
        self.assertEqual(probe(self.media / 'a.avi'), ('avi', ['audio', 'video']))

    def test_film(self):
        makeFilm(self.media / 'a.avi')
        self.assertEqual(probe(self.media / 'a.avi'), ('avi', ['audio', 'video']))
        input = {'source': 'a.avi', 'target': 'a.flv'}
        self.task.checkInput(input)
        result = self.task(None, 1, input)
        self.assertEqual((result['status'], result['error']), (0, ''))
        self.assertEqual(probe(self.media / 'a.flv'), ('flv', ['audio', 'video']))

    def test_names_that_look_like_something_else(self):
        for source, target in (('-i.avi', '-y'), ('concat:a|b', 'file:x'), ('a film.avi', 'pipe:1'),
                               ('%d', 'x%03d.flv')):
            with self.subTest(source=source):
                makeFilm(self.media / source)
                self.task(None, 1, {'source': source, 'target': target})
                self.assertEqual(probe(self.media / target)[0], 'flv')

    def test_a_target_is_written_over(self):
        makeFilm(self.media / 'a.avi')
        (self.media / 'a.flv').write_text('old')
        self.task(None, 1, {'source': 'a.avi', 'target': 'a.flv'})
        self.assertEqual(probe(self.media / 'a.flv')[0], 'flv')

    def test_no_film(self):
        (self.media / 'a.avi').write_text('This is a letter.')
        with self.assertRaises(TaskError) as caught:
            self.task(None, 1, {'source': 'a.avi', 'target': 'a.flv'})
        self.assertRegex(str(caught.exception), r'(?s)ffmpeg exited with status [0-9]+: .*a\.avi')

    def test_a_missing_film(self):
        with self.assertRaises(TaskError) as caught:
            self.task(None, 1, {'source': 'missing.avi', 'target': 'a.flv'})
        self.assertIn('No such file', str(caught.exception))

    def test_a_playlist_is_no_film(self):
        makeFilm(self.media.parent / 'other.avi')
        (self.media / 'link.avi').symlink_to('../other.avi')
        for playlist in ("ffconcat version 1.0\nfile 'link.avi'\n",
                         '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n../other.avi\n#EXT-X-ENDLIST\n'):
            (self.media / 'list').write_text(playlist)
            with self.assertRaises(TaskError):
                self.task(None, 1, {'source': 'list', 'target': 'a.flv'})
            self.assertFalse((self.media / 'a.flv').exists())

    def test_a_film_elsewhere(self):
        with self.assertRaises(InvalidInput):
            self.task.checkInput({'source': '../other.avi', 'target': 'a.flv'})
        with self.assertRaises(InvalidInput):
            self.task.checkInput({'source': 'a.avi', 'target': str(self.media / 'a.flv')})


if __name__ == '__main__':
    unittest.main()
